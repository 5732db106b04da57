"""The command `online-swav`.

Exit codes: 0 done or stopped in order, 1 our fault, 2 the user's, 3 unwell and given up, 4 refused
by a check before the start (`online-swav doctor`; `--force` starts all the same).

Torch and Ray are imported by the commands that need them, so that help is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from online_swav.commands.books import ledger
from online_swav.commands.cooldown import cooldown
from online_swav.commands.doctor import doctor
from online_swav.commands.embed import embed
from online_swav.commands.evaluate import evaluate
from online_swav.commands.export import export
from online_swav.commands.quarantine import quarantine
from online_swav.commands.report import report
from online_swav.commands.search import search
from online_swav.commands.serve import serve
from online_swav.commands.shards import pack, synth
from online_swav.commands.status import status
from online_swav.commands.train import config, demo, train
from online_swav.errors import ConfigError, GivenUp, OnlineSwavError

USAGE = """\
usage: online-swav COMMAND [options]      (online-swav COMMAND --help tells more)

  demo             train on an embedded stream of synthetic images, in a few minutes
  train            train on shards that keep arriving; the same command again resumes
  doctor           check a run before it starts: the options of train; recipe, disk, port, speed
  status           what a run is doing; --watch draws it live, --url from anywhere
  report           the story and the pictures of a run, as one HTML file
  ledger           the books of a run: totals, verify, which step trained which image, skip
  quarantine       what could not be used: list, retry, discard
  evaluate         judge encoders by labelled images: k-NN, linear, finetune, transfer, clusters
  export           a run's encoder for torchvision, safetensors, ONNX, torch.export, swav
  embed            what the encoder sees in every picture of shards, as Parquet
  search           the pictures nearest to one, in what embed wrote
  cooldown         a copy of a run whose rate falls to zero: what its encoder can do by now
  serve            the newest encoder over HTTP: image bytes in, embedding out
  config           print the merged configuration as YAML
  pack             a folder of images -> WebDataset shards
  synth            write synthetic labelled shards
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before torch reads it. Threads that wait must let others run, of this command or another:
    # tried on two cores, threads that spin made a cooldown beside its run 15 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    commands: dict[str, Callable[[list[str]], int]] = {
        "demo": demo, "train": train, "doctor": doctor, "status": status, "report": report,
        "ledger": ledger, "quarantine": quarantine, "evaluate": evaluate, "export": export,
        "embed": embed, "search": search, "cooldown": cooldown, "config": config,
        "pack": pack, "serve": serve, "synth": synth,
    }  # fmt: skip
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    name = arguments.pop(0)
    if name == "--version":
        from importlib.metadata import version

        print(version("online-swav"))
        return 0
    if name not in commands:
        import difflib

        close = difflib.get_close_matches(name, commands, n=1)
        hint = f" Perhaps you meant {close[0]}." if close else ""
        print(f"online-swav: there is no command {name!r}.{hint}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return commands[name](arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        from streams.errors import SourceError, StreamError

        if isinstance(error, ConfigError | SourceError):
            print(f"online-swav {name}: {error}", file=sys.stderr)
            return 2
        if isinstance(error, GivenUp):
            print(f"online-swav {name}: {error}", file=sys.stderr)
            return 3
        if isinstance(error, OnlineSwavError | StreamError):
            print(f"online-swav {name}: {error}", file=sys.stderr)
            return 1
        raise
