"""``sb-margins export RESULTS_DIR OUT_DIR``: a training becomes a model folder."""

from __future__ import annotations

import argparse


def main(argv: list[str]) -> int:
    """Export the best checkpoint of a training.

    Arguments
    ---------
    argv : list of str
        RESULTS_DIR and OUT_DIR.

    Returns
    -------
    int
        0 when done.
    """
    parser = argparse.ArgumentParser(
        prog="sb-margins export",
        description="Make a model folder of a finished training: weights,\n"
        "thresholds found on its dev trials, and a model card. SpeechBrain's\n"
        "SpeakerRecognition.from_hparams loads it too.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results_dir", help="the output_folder of the training")
    parser.add_argument("out_dir", help="the folder to write")
    parser.add_argument("--device", default="cpu", help="for scoring the dev trials")
    args = parser.parse_args(argv)

    from sb_margins.inference.results import export_results

    made = export_results(args.results_dir, args.out_dir, device=args.device)
    print(f"model in {made} (its README.md is the model card)")
    print(f"try: sb-margins verify-files {args.out_dir} A.wav B.wav")
    return 0
