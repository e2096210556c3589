"""A small model with InternVL2's interface; see README.md."""

import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

TOKENS = 256  # of a 448 px tile, as ms-swift's template counts them


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"

    def __init__(self, llm_config=None, **kwargs):
        super().__init__(**kwargs)
        self.llm_config = LlamaConfig(**(llm_config or {}))

    def to_dict(self):
        return super().to_dict() | {"llm_config": self.llm_config.to_dict()}


class InternLM2ForCausalLM(PreTrainedModel):
    config_class = LlamaConfig
    supports_gradient_checkpointing = True

    def __init__(self, config):
        super().__init__(config)
        self.model, self.output = LlamaModel(config), nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.output

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
                labels=None, use_cache=None):
        past = None
        if past_key_values is not None:
            past_key_values[0][0].shape  # noqa: B018  (the real one reads the length of a tuple of tensors here)
            past = DynamicCache.from_legacy_cache(past_key_values)
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                         inputs_embeds=inputs_embeds, past_key_values=past, use_cache=bool(use_cache))
        kept = out.past_key_values.to_legacy_cache() if use_cache else None
        logits = self.output(out.last_hidden_state).float()
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=kept)

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}


class InternVLChatModel(PreTrainedModel):
    config_class = InternVLChatConfig
    supports_gradient_checkpointing = True
    _no_split_modules = []

    def __init__(self, config):
        super().__init__(config)
        self.vision_model, self.mlp1 = nn.Linear(3, 8), nn.Linear(8, config.llm_config.hidden_size)
        self.language_model = InternLM2ForCausalLM(config.llm_config)

    def extract_feature(self, pixel_values):
        """One vector for each of a tile's 256 squares: their mean colour."""
        squares = nn.functional.adaptive_avg_pool2d(pixel_values, 16).flatten(2).transpose(1, 2)
        return self.mlp1(torch.tanh(self.vision_model(squares)))
