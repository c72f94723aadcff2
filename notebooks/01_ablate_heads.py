# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which heads does a task need?
#
# The bundled model `mini` reads sentences such as *When Mary and John went to the store, John gave a book to* and says
# *Mary*. Which attention heads does that take? We replace the output of one head at a time by its mean and see what
# the model loses.

# %%
import interp

model = interp.load("mini")
model

# %% [markdown]
# ## Look at a head
#
# Every hook point has the name it has in TransformerLens. `L0H2` looks two tokens back:

# %%
logits, cache = model.run_with_cache("When Mary and John went to the store, John gave a book to", "*.hook_pattern")
pattern = cache["pattern", 0][0, 2]
pattern.diagonal(offset=-2).mean().item()

# %% [markdown]
# ## Take heads away
#
# The effect is the metric without the edit minus the metric with it: positive means that the head helps. Each head
# stands beside matched control heads of its layer.

# %%
task = interp.task("ioi", n=32, seed=0)
result = interp.ablate(model, task, operator="mean")
result

# %%
result.summary_frame().head()

# %% [markdown]
# ## And what one prompt says without them

# %%
prompt = "When Mary and John went to the store, John gave a book to"
strongest = [row.label for row in result.top() if row.claimed]
with model.edit(interp.Ablate(heads=strongest, operator="zero")):
    edited = model(prompt)
mary, john = (model.tokenizer(name, add_special_tokens=False)["input_ids"][0] for name in (" Mary", " John"))
for name, output in (("untouched", model(prompt)), (f"without {', '.join(strongest)}", edited)):
    said = model.tokenizer.decode(output[0, -1].argmax())
    print(f"{name}: says {said!r}; logit of Mary over John {output[0, -1, mary] - output[0, -1, john]:+.2f}")
