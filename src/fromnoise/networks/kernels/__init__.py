"""Optional C kernels for CPUs: a fused group normalization.

The kernel shortens a training step in bfloat16 on a CPU by a tenth, in float32 not at all (docs/results/step.md). It
is compiled with gcc only after ``enable``: the trainer calls it, sampling and evaluation do not. With and without the
kernel results differ by rounding alone (1e-6 relative in float32), so samples of the process that trained a model may
differ in the last bits from samples generated later from its file.

The environment variable ``FROMNOISE_KERNELS`` overrides this: 1 enables the kernels everywhere, 0 nowhere.
"""

from fromnoise.networks.kernels.build import disable, enable, enabled, identity

__all__ = ["disable", "enable", "enabled", "identity"]
