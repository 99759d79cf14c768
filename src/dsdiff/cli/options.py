"""The options that several commands share, and the options of `dsdiff synth`."""

from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[
    str, typer.Option("--model", help="Name of a shipped model, or a model folder: of a training, or of dsdiff export.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Number of CPU threads. Default: OMP_NUM_THREADS, or all available cores.")
]
Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu, cuda or mps.")]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Import and run the classes that a config names by a dotted path. Only for code you trust."
    ),
]

# dsdiff synth: the case and its model
Inputs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="INPUT", help="Folder of one case, or folder of many cases, with files named as in BraTS or BIDS."
    ),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", readable=False, help="Output folder. Each case gets the folder OUT/<case>/.")
]
T1 = Annotated[Path | None, typer.Option("--t1", help="NIfTI file with the T1 of one patient. Replaces INPUT.")]
T2 = Annotated[Path | None, typer.Option("--t2", help="NIfTI file with the T2 of that patient.")]
Flair = Annotated[Path | None, typer.Option("--flair", help="NIfTI file with the FLAIR of that patient.")]
CaseName = Annotated[
    str | None, typer.Option("--case", help="Case name, for --t1 --t2 --flair. Default: from the file name of T1.")
]
Style = Annotated[
    Path | None,
    typer.Option(
        metavar="CASE",
        help="Folder of another patient of the same scanner, with T1, T2, FLAIR and an acquired T1ce. The result gets "
        "the tissue contrast of that T1ce. Default: the contrast of the most similar training patients, or their "
        "average.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Skip each case whose result in OUT has the same inputs, model, settings and --engine (auto: any engine).",
    ),
]
TrustedCode = Annotated[
    Path | None,
    typer.Option(
        "--allow-code",
        metavar="CONFIG",
        help="Import and run the class that this config names by a dotted path, or load this exported model. Only for "
        "code you trust.",
    ),
]

# dsdiff synth: the sampling
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of sampling steps. Default: the number of the model; the shipped model takes 1, or 4 with "
        "--samples. Time grows with steps times samples.",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        min=1, help="Number of samples to average. The uncertainty map of the shipped model is calibrated for 1 only."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random noise. The same seed gives the same result.")]
Guidance = Annotated[
    float,
    typer.Option(
        min=0,
        help="Scale of classifier-free guidance; 1 is no guidance. Larger values give more enhancement and more error, "
        "and take twice the time. Needs a model that was trained with contrast dropout.",
    ),
]

# dsdiff synth: the computation
FastestThreads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="Number of CPU threads. Default: OMP_NUM_THREADS, or the number that measures fastest."
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="How the network is computed. eager: float32, as in training. fast: bf16 if the machine has it, channels "
        "last. compiled: by torch.compile, which takes minutes at the start. openvino: the model is converted once. "
        "auto: fast (eager on mps). Results agree within rounding.",
    ),
]
MemoryLimit = Annotated[
    float | None,
    typer.Option(
        "--memory",
        min=0,
        metavar="GB",
        help="Limit of CPU memory in GB. Fewer slices are computed in parallel, and one case at a time; the result is "
        "the same. Default: no limit.",
    ),
]
