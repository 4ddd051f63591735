"""verify_onnx.py speaker.onnx a.wav b.wav: one voice? Without torch and sb_margins;
the graph is made by ``sb-margins export MODEL speaker.onnx --onnx``."""

import json
import sys

import numpy as np
import onnxruntime
import soundfile


def similarity(a, b, kind):
    """Cosine, or the negative distance on the Poincaré ball."""
    if kind["name"] == "cosine":
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    if kind.get("metric") != "unit":
        sys.exit(f"this example has no similarity {kind}")
    radius = (1 - 1e-5) / np.sqrt(kind["curvature"])
    a, b = (x * min(1, radius / np.linalg.norm(x)) for x in (a, b))
    apart = np.sum((a - b) ** 2) / (1 - a @ a) / (1 - b @ b)
    return -2 * np.arcsinh(np.sqrt(apart))


model, *files = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
embeddings = []
for file in files:
    wav, rate = soundfile.read(file, dtype="float32", always_2d=True)
    if rate != int(about["sample_rate"]):
        sys.exit(f"{file} has {rate} Hz; resample it to {about['sample_rate']} Hz")
    wav = wav.mean(axis=1)[None]
    feeds = {"waveform": wav, "lengths": np.array([wav.shape[1]])}
    embeddings.append(session.run(None, feeds)[0][0].astype(np.float64))
score = similarity(*embeddings, json.loads(about["similarity"]))
print(f"score {score:.4f}")
if threshold := json.loads(about["thresholds"]).get("eer"):
    print("same speaker" if score > threshold["value"] else "different speakers")
