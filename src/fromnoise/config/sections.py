"""The parts of a recipe: every key with its type, its bounds, its default and its help."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=16384)]


def _size(value: Any) -> Any:
    """One side is both; "auto" takes back a size that a recipe names."""
    if value == "auto":
        return None
    return (value, value) if isinstance(value, int) else value


def _pair(value: Any) -> Any:
    """Two numbers, also as the words ``a,b`` of a flag."""
    return tuple(value.split(",")) if isinstance(value, str) else value


class Part(BaseModel):
    """Frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class DataConfig(Part):
    """What is learned."""

    source: str = "digits"
    """data SPEC: a named set, hub:owner/name, or a path; SPEC:split picks a split"""
    size: Annotated[tuple[Side, Side] | None, BeforeValidator(_size)] = None
    """side in pixels, or [height, width]; left out, or "auto": that of the data"""
    channels: Count | None = None
    """left out: those of the data, so grey stays grey"""
    flip: bool = False
    """mirror half of the images"""
    labels: bool = False
    """condition the model on the labels of the data"""
    attributes: bool = False
    """condition the model on numbers of each image, from a labels.csv beside them, in place of classes"""
    pseudo_labels: Annotated[int, Field(ge=0)] = 0
    """told neither, tell the model which of at most this many clusters an image is in, and draw them by their shares"""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """share held out when the data have no test split of their own"""
    workers: Annotated[int, Field(ge=0)] = 2
    """threads that decode a set too large for memory"""
    memory_gb: Positive = 4.0
    """a set larger than this as uint8 is decoded while training"""


class NetworkConfig(Part):
    """What learns it."""

    kind: Literal["unet", "pulfer", "simple"] = "unet"
    """the general U-Net, or one of the two tutorial networks, which have no further options"""
    width: Count = 64
    """channels of the finest level"""
    multipliers: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4, 8)
    """channels of each level as multiples of the width"""
    blocks: Count = 2
    """residual blocks a level on the way down"""
    blocks_up: Count | None = None
    """the same on the way up; left out: one more"""
    attention_resolutions: tuple[Count, ...] = (16,)
    """sides, in pixels, of the feature maps that get self-attention"""
    middle_attention: bool = True
    """attend at the coarsest level, between the two ways"""
    heads: Count = 1
    """attention heads"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """within residual blocks"""
    groups: Count = 8
    """of the group normalisations"""
    conditioning: Literal["add", "scale-shift"] = "add"
    """how time enters a residual block"""
    upsampling: Literal["nearest", "transposed", "shuffle"] = "nearest"
    """nearest neighbour and a convolution, a transposed convolution, or squares of pixels made of channels"""
    patch: Count = 1
    """pixel-unshuffle at the input by this factor"""
    positions: bool = False
    """tell the network where each pixel lies: for images that are aligned"""
    time_dim: Count | None = None
    """sinusoids of the time embedding; left out: the width"""
    init: Literal["torch", "variance-scaling"] = "torch"
    """initialisation of the weights"""
    recompute: bool = False
    """forget what blocks compute and do it again going back: far less memory, training about a third slower"""
    zero_output: bool = False
    """start the last convolution of each block, of attention and of the network at zero"""


class DiffusionConfig(Part):
    """The noise, and what the network says of it."""

    schedule: Literal["linear", "cosine", "sigmoid", "cosine-continuous"] = "linear"
    """three tables of betas, or the cosine in continuous time"""
    steps: Count = 1000
    """T of a table"""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """of the linear schedule, at T = 1000"""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """of the linear schedule, at T = 1000"""
    rescale: bool = True
    """scale the linear betas by 1000/T, so that any T ends in noise; false takes them literally"""
    zero_terminal: bool = False
    """rescale the table so that it ends in pure noise, for true black and true white (Lin et al. 2023)"""
    target: Literal["eps", "x0", "v", "karras", "mean"] = "eps"
    """what the network regresses; karras: unit variance in and out, for images of this deviation"""
    deviation: Positive = 0.5
    """of the images' values in [-1, 1], for target karras"""
    learned_variance: bool = False
    """the network also says the variance of each reverse step; trained by weighting hybrid or bound"""


class LossConfig(Part):
    """What is minimised."""

    metric: Literal["mse", "mae", "huber"] = "mse"
    """distance from output to target"""
    weighting: Literal["simple", "min-snr", "p2", "bound", "hybrid"] = "simple"
    """of the levels; bound is the true variational one; hybrid takes it for the learned variance, else simple"""
    gamma: Positive | None = None
    """of min-snr (5 if left out) or p2 (1 if left out)"""
    k: Positive = 1.0
    """of p2"""
    times: Literal["uniform", "stratified", "lognormal", "importance"] = "uniform"
    """how t is drawn; lognormal: ln(sigma/alpha) is normal; importance follows the size of the loss, for bound"""
    noise_mean: float = -1.2
    """of ln(sigma/alpha), for times lognormal"""
    noise_deviation: Positive = 1.2
    """of ln(sigma/alpha), for times lognormal"""
    offset_noise: NotNegative = 0.0
    """strength of extra noise per image and channel"""
    self_conditioning: bool = False
    """half of the steps show the network its own first estimate"""
    label_dropout: Share = 0.1
    """share of labels hidden from a conditional model"""


class TrainConfig(Part):
    """How it is minimised. Exactly one of steps, epochs, images, minutes is the budget."""

    steps: Count | None = None
    """budget in optimiser steps"""
    epochs: Positive | None = None
    """budget in passes over the training images"""
    images: Count | None = None
    """budget in training images seen"""
    minutes: Positive | None = None
    """budget in minutes of this machine"""
    batch: Count = 128
    """images a step, over all processes"""
    accumulate: Count = 1
    """parts in which each process takes its share of a batch"""
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    """Adam, Adam with decoupled weight decay, or orthogonalised momentum for matrices and Adam for the rest"""
    lr: Positive = 2e-4
    """learning rate"""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """of Adam"""
    weight_decay: NotNegative = 0.0
    """of AdamW"""
    warmup: Annotated[int, Field(ge=0)] = 0
    """steps of linear rise"""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """course of the learning rate to zero"""
    decay_from: Share = 0.0
    """share of the budget after which it falls"""
    clip: Positive | None = None
    """norm to which gradients are clipped"""
    autosize: tuple[
        Literal["network.width", "network.patch", "network.multipliers", "network.attention_resolutions"], ...
    ] = ()
    """keys that are chosen by the size of the images, the budget and the speed of this machine when a run begins"""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    """of weights, order, noise and flips"""
    report_every: Count = 50
    """steps a line of reports.jsonl"""
    evaluations: Count = 20
    """times that the held-out loss is measured, evenly over the budget"""
    held_out: Count = 256
    """images that it is measured on, at most"""
    previews: Annotated[int, Field(ge=0)] = 8
    """times that samples are drawn while training"""
    checkpoint_seconds: Positive = 60.0
    """between two checkpoints"""
    checkpoint_steps: Count | None = None
    """steps between two checkpoints, as well"""


class EMAConfig(Part):
    """Moving averages of the weights.

    Sampling uses the first average, counting decays before widths; without any it uses the raw weights.
    """

    decays: tuple[Decay, ...] = (0.999,)
    """decays of exponential averages, per update: average <- d average + (1 - d) weights"""
    widths: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = ()
    """relative widths of power-function averages, which adapt to any budget (Karras et al. 2024, eq. 121)"""
    warmup: Literal["ratio", "power", "none"] = "ratio"
    """smaller decays at first: min(d, (1 + n)/(10 + n)) after n steps, min(d, 1 - n^(-2/3)) as ema-pytorch, or none"""
    update_every: Count = 1
    """steps between two updates of the averages; the first is after step 1"""
    update_after: Annotated[int, Field(ge=0)] = 0
    """steps during which the averages are copies of the weights"""
    best_epoch: bool = False
    """instead of averages keep the weights of the epoch with the lowest mean training loss, as tutorial S1 does"""

    @model_validator(mode="after")
    def _agree(self) -> EMAConfig:
        if self.best_epoch and (self.decays or self.widths):
            raise ValueError(
                "ema.best_epoch replaces averages: set it to false, or set ema.decays and ema.widths to []"
            )
        return self


class SamplingConfig(Part):
    """How pictures are drawn, unless told otherwise."""

    sampler: Literal[
        "ancestral", "ddim", "euler", "heun", "dpmpp-2m", "dpmpp-3m", "dpmpp-2m-sde", "unipc", "ipndm", "pc", "sde"
    ] = "ancestral"
    """what a step does"""
    steps: Count | None = None
    """steps; left out: T of a table, 250 of a continuous schedule. heun and pc evaluate the network twice a step"""
    grid: Literal["uniform", "quadratic", "logsnr", "karras", "trailing", "leading"] = "uniform"
    """where the steps are"""
    variance: Share | None = None
    """of the ancestral rule: 0 small (beta tilde) to 1 large (beta); left out: the learned one, or small"""
    eta: Share = 0.0
    """of ddim: 0 deterministic, 1 ancestral"""
    churn: NotNegative = 0.0
    """of heun: share by which the noise is raised before each step"""
    langevin_snr: Positive = 0.16
    """of pc: how long a Langevin step is"""
    clip: bool = True
    """clip x_0 to the range of pixels at each step"""
    guidance: NotNegative = 1.0
    """scale of classifier-free guidance; 1 is none"""
    rescale: Share = 0.0
    """share in which guided images get the contrast of unguided ones back; 0.7 where they are overexposed"""
    interval: Annotated[tuple[Share, Share] | None, BeforeValidator(_pair)] = None
    """times t, from and to, between which guidance acts; left out: at all"""
    interval_logsnr: Annotated[tuple[float, float] | None, BeforeValidator(_pair)] = None
    """the same in log-SNR"""
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """quantile of dynamic thresholding, such as 0.995, in place of clip"""
    truncation: Positive | None = None
    """largest size of the numbers that noise is made of; smaller is less varied; left out: unbounded"""
    count: Annotated[int, Field(ge=0)] = 64
    """pictures drawn after training"""

    @model_validator(mode="after")
    def _agree(self) -> SamplingConfig:
        if self.interval is not None and self.interval_logsnr is not None:
            raise ValueError("guidance has one interval: in t, or in log-SNR")
        if any(span is not None and not span[0] < span[1] for span in (self.interval, self.interval_logsnr)):
            raise ValueError("an interval of guidance runs from a smaller number to a larger one")
        return self


class EvaluationConfig(Part):
    """Evaluations of samples during training; the weights with the least Frechet distance become best.safetensors."""

    times: Annotated[int, Field(ge=0)] = 0
    """number of evaluations, evenly over the budget; 0 for none"""
    samples: Annotated[int, Field(ge=100)] = 1000
    """number of samples per evaluation"""
    steps: Count = 20
    """DDIM steps of the samples"""
    features: Literal["auto", "classifier", "self-supervised", "pixels"] = "auto"
    """features of the distances; auto: classifier for data with labels, otherwise self-supervised"""


class ClusteringConfig(Part):
    """Clustering by EM, for ``fromnoise cluster`` and ``fromnoise assign``."""

    count: Annotated[int, Field(ge=2)] = 10
    """number of clusters"""
    init: Literal["encoder", "pca", "pixels", "random"] = "encoder"
    """initial clusters: an encoder trained beforehand, k-means on principal components or on pixels, or random"""
    encoder_steps: Count = 500
    """optimizer steps of the encoder"""
    encoder_batch: Annotated[int, Field(ge=16)] = 256
    """pairs of images in a step of the encoder"""
    encoder_weight: NotNegative = 1.0
    """weight of the log-likelihood of the initial clusters in every E-step; 0: they are a starting point only"""
    rounds: Count = 3
    """number of E-steps; the last is at the end of the budget"""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """fraction of the budget before the first E-step, trained on the initial clusters"""
    temperature: Positive = 1.0
    """temperature of the first E-step, which divides the bounds; values above 1 give less confident clusters"""
    temperature_last: Positive = 1.0
    """temperature of the last E-step"""
    min_time: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """diffusion steps up to this time t are left out of the bounds: they measure detail that no cluster explains"""
    e_step_probes: Count = 1
    """diffusion steps at which the E-step evaluates every cluster"""
    e_step_refine: Annotated[int, Field(ge=0)] = 12
    """additional diffusion steps at which it evaluates the candidates"""
    candidates: Annotated[int, Field(ge=1)] = 3
    """number of most likely clusters of an image that are candidates"""
    confident: Annotated[float, Field(gt=0, le=1)] = 0.999
    """images with a more probable cluster than this after the probes are not refined"""
    concentration: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """concentration of the Dirichlet prior on the mixture weights; larger values make them more equal"""
    min_weight: Share = 0.1
    """clusters with less than this fraction of an equal share of the images are reseeded; 0: never"""
    split_merge: Share = 0.9
    """close clusters that together have less than this fraction of the largest are merged, and it is split; 0: never"""
