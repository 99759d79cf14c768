"""What the numbers of a segmentation mean (BraTS)."""

import numpy as np
from jaxtyping import Shaped

TUMOUR = (1, 2, 3, 4)  # necrotic core, oedema, enhancing tumour (4 up to BraTS 2021, 3 since)


def enhancing_label(labels: Shaped[np.ndarray, "..."]) -> int:
    """3 where the segmentation uses it (BraTS from 2023, where 4 is the resection cavity), else 4 (up to 2021).

    One of 2023 with a cavity and nothing that enhances cannot be told from one of 2021 by itself: its cavity is taken.
    """
    return 3 if (labels == 3).any() else 4
