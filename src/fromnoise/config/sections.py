"""The sections of a recipe: every key with its type, bounds, default and help."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fromnoise.config.component import Component, Section
from fromnoise.config.values import Count, Decay, NotNegative, Number, Positive, Share, Side, parse_pair, parse_size
from fromnoise.data.decoding import Resize


class DataConfig(Section):
    """The training images, and what the model is conditioned on."""

    source: str = "digits"
    """data SPEC: a named data set, hub:owner/name, or a path; SPEC:split selects a split"""
    size: Annotated[tuple[Side, Side] | None, BeforeValidator(parse_size)] = None
    """side of the images in pixels, or [height, width]; "auto" or left out: that of the data"""
    resize: Resize = "lanczos"
    """filter with which images of another size are resized, after a centred crop; both are antialiased"""
    channels: Count | None = None
    """channels of the images; left out: 1 if all images are grey, otherwise 3"""
    flip: bool = False
    """mirror each training image horizontally with probability 1/2"""
    augmentation: (
        Annotated[Any, Component("augmentation", "edm", "augmentation, a condition of the network; left out: none")]
        | None
    ) = None
    labels: bool = False
    """condition the model on the class labels of the data"""
    attributes: bool = False
    """condition the model on numeric attributes of each image, from a labels.csv beside the images"""
    pseudo_labels: Annotated[int, Field(ge=0)] = 0
    """without labels and attributes, condition the model on at most this many clusters of the images; 0 for none"""
    pseudo_label_means: bool = False
    """the network also sees the mean image of the pseudo-label, as further input channels"""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """fraction of the images that is held out if the data have no test or validation split"""
    workers: Annotated[int, Field(ge=0)] = 2
    """number of threads that decode images while training; 0 for one per core, at most 8"""
    memory_gb: Positive = 4.0
    """memory in GiB for decoded images; larger data sets are decoded while training"""
    skip_damaged: bool = False
    """leave out shards that are missing or damaged, instead of refusing the data"""
    large_recipe: str = ""
    """recipe that takes the place of this one for images whose smaller side is at least large_side; left out: none"""
    large_side: Count = 96
    """see large_recipe, in pixels"""


class DiffusionConfig(Section):
    """The forward process, and what the network predicts."""

    schedule: Annotated[Any, Component("schedule", "linear", "noise schedule")] = "linear"
    target: Annotated[Any, Component("target", "eps", "what the network regresses")] = "eps"
    noise_conditioning: Annotated[Any, Component("noise_conditioning", "timestep", "the network's time input")] = (
        "timestep"
    )
    zero_terminal_snr: bool = False
    """rescale the betas to zero terminal SNR, for true black and true white (Lin et al. 2024)"""
    learned_variance: bool = False
    """the network also predicts the variance of each reverse step; trained by objective hybrid or vlb"""
    clip_x0: bool = False
    """clip every predicted x_0 to [-1, 1], in training too: a black or white pixel predicted beyond it is no error"""


class LossConfig(Section):
    """The training loss."""

    objective: Annotated[Any, Component("objective", "simple", "L_simple, the variational bound, or both")] = "simple"
    distance: Annotated[Any, Component("distance", "mse", "distance of the network's output to its target")] = "mse"
    weighting: Annotated[
        Any, Component("weighting", "constant", "weight of a noise level, for objectives simple and hybrid")
    ] = "constant"
    time_sampler: Annotated[
        Any, Component("time_sampler", "uniform", "distribution of the time t; importance is for objective vlb")
    ] = "uniform"
    offset_noise: NotNegative = 0.0
    """standard deviation of noise added per image and channel (Guttenberg 2023)"""
    self_conditioning: bool = False
    """in half of the steps the network also receives its own first estimate of x_0 (Chen et al. 2022)"""
    self_conditioning_clip: bool = True
    """clip that estimate to [-1, 1]"""
    label_dropout: Share = 0.1
    """probability with which a condition is replaced by the null condition, for classifier-free guidance"""


class TrainConfig(Section):
    """The optimization. The budget is exactly one of steps, epochs, images and minutes."""

    steps: Count | None = None
    """budget in optimizer steps"""
    epochs: Positive | None = None
    """budget in passes over the training images"""
    images: Count | None = None
    """budget in training images, each counted as often as it is used"""
    minutes: Positive | None = None
    """budget in minutes on this machine"""
    batch: Count = 128
    """images per optimizer step, over all processes and micro-batches"""
    accumulate: Count = 1
    """micro-batches per step, whose gradients are accumulated; needs less memory"""
    sharding: Literal["none", "full"] = "none"
    """with several processes, full shards weights, gradients, moments and averages over them (FSDP2), for networks that
    do not fit on one device; none: each process holds all of them (DDP)"""
    optimizer: Annotated[Any, Component("optimizer", "adam", "optimizer")] = "adam"
    lr: Positive = 2e-4
    """learning rate"""
    warmup: Annotated[int, Field(ge=0)] = 0
    """number of steps over which the learning rate rises linearly: lr (s + 1) / (warmup + 1) in step s = 0, 1, ..."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """decay of the learning rate to zero at the end of the budget"""
    decay_from: Share = 0.0
    """fraction of the budget after which the learning rate decays"""
    clip: Positive | None = None
    """largest norm of the gradient, over all parameters; left out: no clipping"""
    autosize: tuple[
        Literal[
            "autoencoder.factor",
            "network.width",
            "network.patch",
            "network.multipliers",
            "network.attention_resolutions",
        ],
        ...,
    ] = ()
    """keys that are chosen at the start of a run, by the size of the images, the budget and the speed of the machine"""
    init_from: str = ""
    """run directory or .safetensors file of a trained model of the same network, from whose weights training starts;
    left out: from random ones"""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    """seed of the initial weights, the order of the images, their flips, and the noise"""
    report_every: Count = 50
    """steps between two lines of reports.jsonl"""
    evaluations: Count = 20
    """largest number of evaluations of the held-out loss, spread evenly over the budget"""
    held_out: Count = 256
    """largest number of held-out images of an evaluation"""
    previews: Annotated[int, Field(ge=0)] = 8
    """largest number of times that samples are generated during training"""
    evaluation_share: Decay = 0.1
    """largest share of the budget for held-out losses, previews, evaluations, final samples and checkpoints together;
    a budget in steps, epochs or images allows 10 seconds in any case"""
    min_steps: Count | None = None
    """number of steps below which samples are mostly noise: a smaller budget is announced at the start of the run; left
    out: from warm-up and averages"""
    threads: Count | None = None
    """number of CPU threads; left out: the fastest number, which is measured at the start and during training"""
    checkpoint_seconds: Positive = 60.0
    """seconds between two checkpoints"""
    checkpoint_steps: Count | None = None
    """steps between two checkpoints, in addition to checkpoint_seconds"""
    tracker: Annotated[Any, Component("tracker", "tensorboard", "where the run is shown; left out: nowhere")] | None = (
        None
    )


class LatentConfig(Section):
    """The autoencoder of a diffusion model of latents: where it comes from."""

    source: str = ""
    """run directory or .safetensors file of a trained autoencoder (--autoencoder); left out: one is trained first, by
    the recipe "recipe" on the same images, in the folder autoencoder of the run"""
    recipe: str = "autoencoder"
    """recipe whose loss and training settings the autoencoder has, which is trained first; images and seed are those of
    the diffusion model"""
    share: Annotated[float, Number, Field(gt=0, lt=1)] = 0.4
    """share of a budget in minutes that training the autoencoder takes; of a budget in steps, epochs or images it takes
    as large a part, in addition"""
    cache: bool = True
    """encode all training images once and keep their latents in memory, if they fit in data.memory_gb"""


class EMAConfig(Section):
    """Moving averages of the weights.

    Sampling uses the first average, counting decays before widths; without any it uses the raw weights.
    """

    decays: tuple[Decay, ...] = (0.999,)
    """decays of exponential averages, per update: average <- d average + (1 - d) weights"""
    widths: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = ()
    """relative widths of power-function averages, which adapt to any budget (Karras et al. 2024, eq. 121)"""
    warmup: Literal["ratio", "power", "none"] = "ratio"
    """smaller decays at first, after n steps: ratio min(d, (1 + n)/(10 + n)), power min(d, 1 - n^(-2/3)), or none"""
    update_every: Count = 1
    """steps between two updates of the averages; the first is after step 1"""
    update_after: Annotated[int, Field(ge=0)] = 0
    """steps during which the averages are copies of the weights"""
    snapshots: Annotated[int, Field(ge=0)] = 0
    """number of times, evenly over the budget, that two more averages are written to snapshots/, from which
    fromnoise ema computes an average of any width afterwards; 0 for none"""
    snapshot_widths: Annotated[tuple[Annotated[float, Field(gt=0, lt=0.28)], ...], Field(min_length=1)] = (0.05, 0.1)
    """relative widths of the averages in snapshots (Karras et al. 2024, sec. 3.2)"""
    snapshot_every: Count = 16
    """steps between two updates of the averages in snapshots"""
    weak_at: Share = 0.0
    """share of the budget after which a copy of the first average is kept in the model, as the weaker model of
    sample.guidance_method autoguidance; 0 for none"""
    best_epoch: bool = False
    """instead of averages, keep the weights of the epoch with the lowest mean training loss (recipe pulfer)"""

    @model_validator(mode="after")
    def _agree(self) -> EMAConfig:
        if self.best_epoch and (self.decays or self.widths):
            raise ValueError(
                "ema.best_epoch replaces averages: set it to false, or set ema.decays and ema.widths to []"
            )
        return self


class SamplingConfig(Section):
    """The default options of sampling."""

    sampler: Annotated[Any, Component("sampler", "ancestral", "sampler")] = "ancestral"
    steps: Count | None = None
    """number of steps; left out: the sampler's default. Samplers heun and pc evaluate the network twice in a step"""
    grid: Annotated[Any, Component("grid", "uniform", "time grid; left out: the sampler's default")] | None = None
    clip: bool = True
    """clip the predicted x_0 to [-1, 1] in each step"""
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """quantile of dynamic thresholding, such as 0.995, in place of clip (Saharia et al. 2022)"""
    guidance: NotNegative = 1.0
    """guidance scale; 1 is none"""
    guidance_method: Annotated[Any, Component("guidance", "classifier-free", "how the scale is applied")] = (
        "classifier-free"
    )
    interval: Annotated[tuple[Share, Share] | None, BeforeValidator(parse_pair)] = None
    """interval of times t in which guidance is applied, such as 0.2,0.8; left out: all times"""
    interval_logsnr: Annotated[tuple[float, float] | None, BeforeValidator(parse_pair)] = None
    """interval of log-SNR in which guidance is applied, in place of interval"""
    tuned: bool = True
    """use the steps that fromnoise tune learned for this number of steps, if the model has them; they are left out with
    another sampler or grid, other guidance, another clipping, truncation or size"""
    truncation: Positive | None = None
    """largest absolute value of the Gaussian noise; smaller values give less varied samples; left out: unbounded"""
    count: Annotated[int, Field(ge=0)] = 64
    """number of samples generated after training"""

    @property
    def guides_by_condition(self) -> bool:
        """Whether guidance compares predictions with and without a condition."""
        return self.guidance != 1 and self.guidance_method.kind != "autoguidance"

    @property
    def guides_by_early_version(self) -> bool:
        """Whether guidance compares predictions with those of an earlier version of the model."""
        return self.guidance != 1 and self.guidance_method.kind == "autoguidance"

    @model_validator(mode="after")
    def _check_intervals(self) -> SamplingConfig:
        if self.interval is not None and self.interval_logsnr is not None:
            raise ValueError("give interval or interval_logsnr, not both")
        for key, span in (("interval", self.interval), ("interval_logsnr", self.interval_logsnr)):
            if span is not None and not span[0] < span[1]:
                raise ValueError(f"{key} is {span[0]:g},{span[1]:g}: the first number must be smaller than the second")
        return self


class EvaluationConfig(Section):
    """Evaluations of samples during training; the weights with the least Frechet distance become best.safetensors."""

    times: Annotated[int, Field(ge=0)] = 0
    """number of evaluations, evenly over the budget; 0 for none"""
    samples: Annotated[int, Field(ge=100)] = 1000
    """number of samples per evaluation"""
    steps: Count = 20
    """DDIM steps of the samples"""
    features: Literal["auto", "classifier", "self-supervised", "pixels"] = "auto"
    """features of the distances; auto: classifier for data with labels, otherwise self-supervised"""


class ClusteringConfig(Section):
    """Clustering by EM, for ``fromnoise cluster`` and ``fromnoise assign``."""

    count: Annotated[int, Field(ge=2)] = 10
    """number of clusters"""
    images: Annotated[int, Field(ge=2)] | None = None
    """number of images to cluster, selected by the seed of the training; all by default"""
    init: Literal["encoder", "features", "pca", "pixels", "random"] = "encoder"
    """initial clusters: an encoder trained beforehand, own features, k-means on principal components or on pixels, or
    random"""
    features: str | None = None
    """for init features: a file with a feature vector of each image of the data set (.npy, .npz, .parquet or .csv), or
    a finished diffusion run whose activations are used"""
    encoder_steps: Count = 1500
    """optimizer steps of the encoder; at most 250 epochs, and at most 0.3 of a budget in minutes"""
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

    @model_validator(mode="after")
    def _check_features(self) -> ClusteringConfig:
        if self.init == "features" and self.features is None:
            raise ValueError(
                "init features needs a file with the features of each image, or a diffusion run: give --features FILE"
            )
        if self.init != "features" and self.features is not None:
            raise ValueError(f"init {self.init} does not use the features: leave them out, or set init features")
        return self
