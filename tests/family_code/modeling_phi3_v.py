"""A small model with Phi-3.5-Vision's interface, on transformers' Phi3ForCausalLM; see README.md."""

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, DynamicCache, Phi3Config, Phi3ForCausalLM, Phi3Model
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin

SIDE = 8  # pixels of a picture's square that is one token


class Phi3VConfig(Phi3Config):
    model_type = "phi3_v"


class Phi3VImageProcessor(BaseImageProcessor):
    def __init__(self, num_crops=1, **kwargs):
        super().__init__(**kwargs)
        self.num_crops = num_crops

    def preprocess(self, images, return_tensors=None):
        """Pictures of one size: a token for each square of each of them."""
        pixels = np.stack([np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255 for image in images])
        tokens = [(pixels.shape[2] // SIDE) * (pixels.shape[3] // SIDE)] * len(images)
        data = {"pixel_values": pixels, "image_sizes": [image.size for image in images], "num_img_tokens": tokens}
        return BatchFeature(data, tensor_type=return_tensors)


class Phi3VProcessor(ProcessorMixin):
    attributes = ["image_processor", "tokenizer"]
    image_processor_class, tokenizer_class = "AutoImageProcessor", "AutoTokenizer"

    def __init__(self, image_processor, tokenizer):  # as the real one's, without super().__init__
        self.image_processor, self.tokenizer = image_processor, tokenizer


class Phi3ImageEmbedding(nn.Module):
    def __init__(self, config, wte):
        super().__init__()
        self.wte = wte  # the text's word embedding, under a second name
        self.img_processor, self.img_projection = nn.Linear(3, 8), nn.Linear(8, config.hidden_size)

    def forward(self, input_ids, pixel_values):
        embedded = self.wte(input_ids.clamp(min=0))
        if pixel_values is None:
            return embedded
        squares = nn.functional.avg_pool2d(pixel_values.to(embedded.dtype), SIDE).flatten(2).transpose(1, 2)
        seen = self.img_projection(torch.tanh(self.img_processor(squares)))
        return embedded.masked_scatter((input_ids < 0)[..., None], seen)


class Phi3VModel(Phi3Model):
    def __init__(self, config):
        super().__init__(config)
        self.vision_embed_tokens = Phi3ImageEmbedding(config, self.embed_tokens)
        self.post_init()

    def forward(self, input_ids=None, pixel_values=None, image_sizes=None, inputs_embeds=None,
                past_key_values=None, use_cache=None, **kwargs):
        if inputs_embeds is None:
            inputs_embeds = self.vision_embed_tokens(input_ids, pixel_values)
        if not use_cache:
            return super().forward(inputs_embeds=inputs_embeds, use_cache=False, **kwargs)
        past = DynamicCache.from_legacy_cache(past_key_values)
        past.get_usable_length(inputs_embeds.shape[1])  # the real one's call; DynamicCache had it once
        out = super().forward(inputs_embeds=inputs_embeds, past_key_values=past, use_cache=True, **kwargs)
        out.past_key_values = out.past_key_values.to_legacy_cache()
        return out


class Phi3VForCausalLM(Phi3ForCausalLM):
    config_class = Phi3VConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = Phi3VModel(config)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        past_length = past_key_values.seen_tokens  # the real one's call; DynamicCache had it once
        return {"input_ids": input_ids[:, past_length:], "past_key_values": past_key_values, **kwargs}
