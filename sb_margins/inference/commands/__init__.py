"""The commands that use a model folder, one file each."""
