"""What is checked before a run starts: recipe, disk, port, machine, cluster, sources, speed."""
