"""A pretrained language model with an eye: SmolLM2-135M, a MobileNetV2 and a projector trained on captions alone.

Both come out of packages; no model hub is needed. Every other model of this project was trained to show task vectors.
This one was not: no task is ever trained with an image, and the language model is not trained at all.

    python -m analyses.pretrained --out runs/pretrained     # fetch, convert, train, package, measure
"""
