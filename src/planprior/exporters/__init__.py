"""An agent as programs for other runtimes, with the weights inside.

`programs` says what is exported: the policy, and one plan. `stablehlo` and
`onnx_file` write it, and ask the runtime itself whether it computes the same;
`manifest` describes the files and gives one example of each.
"""
