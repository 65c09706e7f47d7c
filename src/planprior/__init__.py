"""Planning agents whose planner is the prior of their policy.

Names are imported when first used, so that environment workers, which import
`planprior.envs`, never load JAX.
"""

__version__ = "0.1.0"
