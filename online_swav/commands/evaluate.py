"""`evaluate`: judging encoders from outside, by one of several protocols."""

from __future__ import annotations

import argparse

from online_swav.commands.evaluate_cluster import CLUSTER
from online_swav.commands.evaluate_detection import DETECTION
from online_swav.commands.evaluate_finetune import FINETUNE
from online_swav.commands.evaluate_knn import KNN
from online_swav.commands.evaluate_linear import LINEAR
from online_swav.commands.evaluate_transfer import TRANSFER
from online_swav.commands.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = (KNN, LINEAR, FINETUNE, TRANSFER, DETECTION, CLUSTER)
"""Every protocol, in the order of the help."""


def evaluate(arguments: list[str]) -> int:
    """Judge a run's newest encoder, beside others."""
    parser = argparse.ArgumentParser(
        prog="online-swav evaluate",
        description="Judge the encoder of a run by labelled images, beside baselines and others.",
        epilog="online-swav evaluate PROTOCOL --help tells more.",
    )
    commands = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for protocol in PROTOCOLS:
        command = commands.add_parser(
            protocol.name, help=protocol.help, description=protocol.description
        )
        protocol.add_options(command)
        command.set_defaults(run_protocol=protocol.run)
    options = parser.parse_args(arguments)
    return int(options.run_protocol(options))
