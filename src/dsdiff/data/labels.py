"""What the numbers of a segmentation mean (BraTS)."""

import numpy as np
from jaxtyping import Shaped

TUMOUR = (1, 2, 3, 4)  # necrotic core, oedema, enhancing tumour (3 from 2023, 4 before)


def enhancing_label(labels: Shaped[np.ndarray, "..."]) -> int:
    """4 where the segmentation uses it (BraTS up to 2021), else 3 (from 2023)."""
    return 4 if (labels == 4).any() else 3
