"""Ridge regression in closed form, with cross-fitted predictions by face.

A stage of a cascade corrects what the stages before it leave over. On the faces they were fitted to that is less than
on strangers, so what is handed on is cross-fitted: every face's reading comes from a fit to other faces. Needs numpy.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

PENALTY = 1.0  # ridge, as a share of the features' mean variance
FOLDS = 4


def ridge(features: Floats, targets: Floats, penalty: float = PENALTY) -> tuple[Floats, Floats]:
    """Weights [d, k] and bias [k] of the penalised least squares fit of targets [n, k] by features [n, d]."""
    mean, centre = features.mean(0), targets.mean(0)
    features = features - mean
    weight = _solve(features.T @ features, features.T @ (targets - centre), penalty)
    return weight, (centre - mean @ weight).astype(np.float32)


def cross_fitted(
    features: Floats, targets: Floats, faces: Sequence[str], penalty: float = PENALTY
) -> tuple[Floats, Floats, Floats]:
    """Weights [d, k] and bias [k] of the fit to everything, and what fits without a row's face say of that row [n, k].

    faces: whose row it is [n]; all rows of a face are left out together.
    """
    mean, centre = features.mean(0), targets.mean(0)
    features, targets = features - mean, targets - centre
    numbers = np.unique(np.asarray(faces), return_inverse=True)[1]
    fold = np.random.default_rng(0).permutation(numbers.max() + 1)[numbers] % FOLDS
    parts = []
    for one in range(FOLDS):
        rows = features[fold == one]
        parts.append((rows.T @ rows, rows.T @ targets[fold == one]))
    gram, moment = np.sum([part[0] for part in parts], axis=0), np.sum([part[1] for part in parts], axis=0)
    unseen = np.empty_like(targets)
    for one, (own_gram, own_moment) in enumerate(parts):
        unseen[fold == one] = features[fold == one] @ _solve(gram - own_gram, moment - own_moment, penalty)
    weight = _solve(gram, moment, penalty)
    return weight, (centre - mean @ weight).astype(np.float32), unseen + centre


def _solve(gram: Floats, moment: Floats, penalty: float) -> Floats:
    gram = gram + np.diag(np.full(len(gram), penalty * float(np.trace(gram)) / len(gram), gram.dtype))
    return np.linalg.solve(gram, moment).astype(np.float32)
