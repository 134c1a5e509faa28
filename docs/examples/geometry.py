import numpy as np

import xmi
from xmi.measure import alignment, silhouette

vlm = xmi.load("organism")
points, tasks, modalities = [], [], []
for name in xmi.task_names():
    for modality in ("text", "image"):
        found = vlm.residuals(xmi.task(name).icl(modality, shots=5, n=15, seed=0, split="train"))
        points.append(found.values.numpy())  # [prompt, layer, d_model]
        tasks += [name] * len(points[-1])
        modalities += [modality] * len(points[-1])
stack = np.concatenate(points)

result = alignment(stack, tasks, modalities)
for measure in (
    "cosine, same minus different task, across modalities",
    "centroids, text to image",
    "centroids, image to text",
    "CKA",
    "RSA",
    "Procrustes",
    "gap",
):
    for state in result.states:
        curve = result.curve(measure, state)
        print(f"{measure}, {state}:", " ".join(f"{v:.2f}" for v in curve["value"]))
        print("  corrected p:", " ".join(f"{p:.2g}" for p in curve["corrected"]))
print(silhouette(stack, tasks, modalities).to_frame().round(3).to_string(index=False))
