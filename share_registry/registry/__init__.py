"""The verbs: a facade without logic over transactions, history, materializing and checks."""
