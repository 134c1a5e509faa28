import xmi

vlm = xmi.load(MODEL, processor=PROCESSOR)  # an id or folder needs no processor
prompt = xmi.free_prompt(TEXT, IMAGES)  # "<image>" in the text stands for an image
logits, cache = vlm.run_with_cache(prompt, names=["embed", "resid_post"], positions="last")
stream = cache.stack("resid_post")  # [layer, batch, position, d_model]
middle = vlm.backbone.n_layers // 2
zeroed = vlm.run_with_hooks(prompt, fwd_hooks=[(f"blocks.{middle}.hook_resid_post", lambda state, hook: state * 0)])
with vlm.trace(prompt):
    traced = vlm.resid_post[middle].save()
tokens = vlm.lens(prompt).tokens[0]  # what each layer decodes to
print(vlm.describe(), stream.shape, traced.shape, tokens[-1], vlm.generate(prompt, max_new_tokens=3).texts, sep="\n")
