"""What a run did with its tokens: entropy, selection, and how both moved away from the base model.

The analyses of Wang et al., arXiv:2506.01939, sections 3 and 4, on the rollouts that a run stored. Nothing
here needs a model: who calls hands over entropies and the text of every token.
"""
