"""A pipeline of diffusers that an export of fromnoise carries: classes, guidance and the steps of the exported model.

``DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)(batch_size=4, class_labels=["cat"])``
"""

import inspect
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class FromnoisePipeline(DiffusionPipeline):
    """Samples of a network without or with classes, by classifier-free guidance (Ho and Salimans 2022)."""

    model_cpu_offload_seq = "unet"

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        id2label: dict | None = None,
        null_class: int | None = None,
        guidance_scale: float = 1.0,
        steps: int = 1000,
        step_options: dict | None = None,
    ) -> None:
        """Keep the parts; model_index.json has the other arguments.

        Args:
            unet: the network.
            scheduler: of the steps.
            id2label: name of each class by its number as text; None for an unconditional network.
            null_class: row of the class embedding that stands for no class; None if none does.
            guidance_scale: of ``__call__`` by default; 1 is no guidance.
            steps: of ``__call__`` by default.
            step_options: further arguments of the scheduler's ``step``.
        """
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            id2label=id2label,
            null_class=null_class,
            guidance_scale=guidance_scale,
            steps=steps,
            step_options=step_options or {},
        )

    def class_rows(self, labels: str | int | list[str | int] | range | None, count: int) -> Tensor:
        """Rows of the class embedding, (count,): sample i gets label i modulo their number.

        Args:
            labels: names or numbers of classes, or one of them; None is no class.
            count: number of samples.

        Raises:
            ValueError: there is no such class, or the network needs one.
        """
        null, classes = self.config["null_class"], list((self.config["id2label"] or {}).values())
        if labels is None and null is None:
            raise ValueError("this network has no row for no class: give class_labels")
        if labels is None:
            return torch.full((count,), null, device=self._execution_device)
        labels = [labels] if isinstance(labels, int | str) else list(labels)
        numbers = [classes.index(name) if name in classes else int(name) for name in labels]
        if not numbers or not all(0 <= number < len(classes) for number in numbers):
            raise ValueError(f"class_labels must be of {classes[:12]} or numbers below {len(classes)}, not {labels}")
        rows = [number + (null is not None and number >= null) for number in numbers]
        return torch.tensor([rows[i % len(rows)] for i in range(count)], device=self._execution_device)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: str | int | list[str | int] | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample images.

        Args:
            batch_size: number of images.
            class_labels: as of ``class_rows``; with guidance and without labels the classes take turns.
            guidance_scale: scale of classifier-free guidance; None is that of the exported model.
            num_inference_steps: number of steps; None is that of the exported model.
            generator: of the noise.
            latents: the initial noise, in place of the generator's.
            output_type: "pil", "np" or "pt".
            return_dict: return an ``ImagePipelineOutput``, not a tuple.

        Raises:
            ValueError: as ``class_rows``, or guidance of a network that cannot leave out the class.
        """
        scale = self.config["guidance_scale"] if guidance_scale is None else guidance_scale
        side = self.unet.config.sample_size
        shape = (batch_size, self.unet.config.in_channels, *((side, side) if isinstance(side, int) else side))
        device, dtype = self._execution_device, self.unet.dtype
        image: Any = randn_tensor(shape, generator, device, dtype) if latents is None else latents.to(device, dtype)
        rows = null_rows = None
        if self.config["id2label"]:
            turns = range(len(self.config["id2label"])) if class_labels is None and scale != 1 else class_labels
            rows = self.class_rows(turns, batch_size)
            null_rows = self.class_rows(None, batch_size) if scale != 1 else None
        elif class_labels is not None or scale != 1:
            raise ValueError("this network has no classes: leave out class_labels and guidance_scale")
        options = dict(self.config["step_options"])
        if "generator" in inspect.signature(self.scheduler.step).parameters:
            options["generator"] = generator
        self.scheduler.set_timesteps(self.config["steps"] if num_inference_steps is None else num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
            output = self.unet(image, t, class_labels=rows).sample
            if null_rows is not None:
                output = self.guided(output, self.unet(image, t, class_labels=null_rows).sample, scale)
            image = self.scheduler.step(output, t, image, **options).prev_sample
        image = (image / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            image = image.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            image = self.numpy_to_pil(image)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=image) if return_dict else (image,)

    def guided(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        """Unconditional output + scale (conditional - unconditional); a learned variance stays the conditional one."""
        channels = self.unet.config.in_channels
        mean = torch.lerp(unconditional[:, :channels], conditional[:, :channels], scale)
        return torch.cat([mean, conditional[:, channels:]], dim=1)
