"""One file per verb of ``sb-margins``: its settings, and ``main(argv)``."""

#: The module of each command, and what it is for.
COMMANDS = {
    "demo": ("sb_margins.commands.demo", "train, evaluate, export, verify, end to end"),
    "losses": ("sb_margins.commands.losses", "the losses: equation, defaults, source"),
    "prepare": ("sb_margins.commands.prepare", "make manifests and trial lists"),
    "train": ("sb_margins.commands.train", "train a verifier from a YAML"),
    "finetune": ("sb_margins.commands.finetune", "adapt a model to your speakers"),
    "compare": ("sb_margins.commands.compare", "losses side by side: one report"),
    "plot-loss": ("sb_margins.commands.plot_loss", "draw losses and gradients"),
    "verify": ("sb_margins.commands.verify", "score trial lists with a model"),
    "metrics": ("sb_margins.commands.metrics", "EER, minDCF of a score file"),
    "export": ("sb_margins.commands.export", "results folder to model folder"),
    "push": ("sb_margins.commands.push", "model folder to the Hugging Face hub"),
    "verify-files": ("sb_margins.commands.verify_files", "same voice?"),
    "enroll": ("sb_margins.commands.enroll", "keep a speaker's voice"),
    "identify": ("sb_margins.commands.identify", "who is speaking?"),
    "embed": ("sb_margins.commands.embed", "embeddings of files (npz)"),
    "doctor": ("sb_margins.commands.doctor", "versions, devices, known traps"),
    "completion": ("sb_margins.commands.completion", "complete flags in a shell"),
}
