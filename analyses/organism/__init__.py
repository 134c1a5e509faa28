"""The recipe of the embedded model: a tiny LLaVA in which cross-modal task vectors arise, trained on a CPU.

One command trains, evaluates and packages a run::

    python -m analyses.organism --seed 0 --out runs/organism-0

and `analyses.organism.card` writes the model card from the evaluations of several runs.
"""
