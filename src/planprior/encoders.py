"""Observations to latents."""

from planprior.config import NetworkConfig
from planprior.nets import SimplexMLP
from planprior.types import PRNGKey

Encoder = SimplexMLP


def vector_encoder(
    observation_dim: int, network: NetworkConfig, *, key: PRNGKey
) -> Encoder:
    """An MLP for flat observations, at least one hidden layer (tdmpc2, layers.py)."""
    depth = max(network.encoder_layers - 1, 1)
    widths = [network.encoder_dim] * depth + [network.latent_dim]
    return SimplexMLP.init(observation_dim, widths, network.simnorm_dim, key=key)
