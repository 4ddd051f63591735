"""Makes or refreshes `.venv`, as `make setup` does: python3 tools/setup_env.py

Only the standard library is used. Every step can be interrupted, even by kill -9:
the next run finds out what is there and goes on.
"""

import argparse
import sys
import time
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036  (this line is for those who have it)
    sys.exit(
        "set-up: Python 3.10 or newer is needed; this is " + sys.version.split()[0]
    )

import environment  # noqa: E402
import matching  # noqa: E402
from problems import SetupError, say  # noqa: E402
from steps import Steps  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def set_up(root: Path, extras: str, base: str = sys.executable) -> None:
    """Bring `root/.venv` to what constraints.txt and setup.cfg ask for."""
    env = environment.Environment(root, extras)
    with env.lock() as lock:
        if env.is_current():
            say(f"Set-up is up to date ({env.describe()}).")
            return
        start = time.monotonic()
        env.check_space()
        if env.is_usable():
            say(f"Going on with {env.folder.name} ({env.describe()})")
        else:
            say(f"Making {env.folder.name} with Python {sys.version.split()[0]}")
            env.create(base)
        dropped = env.drop_half_installed()
        if dropped:
            say(f"  left half-way last time, to be done again: {', '.join(dropped)}")
        env.mark(complete=False)

        steps = Steps(env, lock)
        pins = ["-c", str(root / "constraints.txt")]
        steps.pip("PyTorch", [*pins, "torch", "setuptools"])
        # The build tools are there by now: no second download of them.
        package = f"{root}[{extras}]" if extras else str(root)
        steps.pip(
            "sb_margins and what it needs",
            [*pins, "--no-build-isolation", "-e", package],
        )
        for line in matching.repair(env.site_packages()):
            say(f"  {line}")
        steps.check_imports()
        env.mark(complete=True)
        for line in matching.gpu_lines(env.site_packages()):
            say(f"  {line}")
        say(f"Set-up is done in {time.monotonic() - start:.0f} s ({env.describe()}).")


def main(argv: list[str] | None = None) -> int:
    """Set up; tell in a line or two what stands in the way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    parser.add_argument("--extras", default="demo,test", help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        set_up(args.root.resolve(), args.extras)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"set-up: {SetupError.from_os(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run it again, it goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
