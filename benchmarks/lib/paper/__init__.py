"""The paper's tables, figures and claims beside ours: what is measured, how it is kept, and how it is shown."""
