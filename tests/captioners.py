"""Tiny *real* captioning models: BLIP and BLIP-2 in their own architecture with random weights, saved with processors.

Their captions are nonsense, but differ by picture and are the same each time.
"""

from pathlib import Path

import torch

WORDS = (
    "a",
    "an",
    "the",
    "red",
    "green",
    "blue",
    "yellow",
    "wall",
    "floor",
    "room",
    "table",
    "chair",
    "lamp",
    "ball",
    "with",
    "and",
    "on",
    "in",
    "of",
    "photo",
)
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[DEC]", "eos_token": "[SEP]"}


def tokenizer(template: str):
    """A tokenizer of whole words and BLIP's special tokens, which a text gets as the template says."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: number for number, word in enumerate([*SPECIAL.values(), *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(token, vocab[token]) for token in ("[DEC]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL)


def vision() -> dict:
    return {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }


def save(model, processor, folder: Path, seed: int = 0) -> Path:
    """Give all matrices weights large enough that the picture decides what is said, and save both."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.6, generator=generator)
    model.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    return folder


def tiny_blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    words = tokenizer("[DEC] $A [SEP]")
    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "sep_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    config = BlipConfig(text_config=text, vision_config=vision())
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), words)
    return save(BlipForConditionalGeneration(config), processor, folder)


def tiny_blip2(folder: Path) -> Path:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    words = tokenizer("[DEC] $A")
    processor = Blip2Processor(BlipImageProcessor(size={"height": 32, "width": 32}), words, num_query_tokens=4)
    query = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        "model_type": "opt",
        "vocab_size": len(words),
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    config = Blip2Config(
        vision_config=vision(),
        qformer_config=query,
        text_config=text,
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),  # which the processor has added
    )
    return save(Blip2ForConditionalGeneration(config), processor, folder)
