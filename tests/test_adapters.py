"""LoRA experts travel to PEFT and back: the same function on the Hugging Face backbone, the same weights here."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from model.adapters import read_adapter, write_adapter
from model.config import DecoderConfig, LoraConfig
from model.language import Decoder, load_llama

SIZES = DecoderConfig(vocab=64, dim=32, layers=2, heads=4, kv_heads=2, mlp=48)


def backbone() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, rope_theta=SIZES.rope_theta, rms_norm_eps=SIZES.norm_eps, tie_word_embeddings=True,
        )
    ).eval()


def decoder(experts: int = 1, rank: int = 4) -> Decoder:
    made = Decoder(SIZES, LoraConfig(experts=experts, rank=rank, alpha=2.0 * rank), extra_tokens=1).eval()
    load_llama(made, backbone().state_dict())
    for name, parameter in made.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def test_written_adapter_is_the_same_function_under_peft(tmp_path: Path) -> None:
    ours = decoder()
    write_adapter(ours, tmp_path)
    theirs = PeftModel.from_pretrained(backbone(), str(tmp_path)).eval()
    ids = torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        hidden, _ = ours(ours.embed(ids))
        torch.testing.assert_close(ours.logits(hidden)[..., :64], theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_second_expert_reads_what_the_first_wrote(tmp_path: Path) -> None:
    write_adapter(decoder(), tmp_path)
    pair = decoder(experts=2)
    read_adapter(pair, tmp_path, expert=1)
    single = decoder()
    read_adapter(single, tmp_path)
    torch.testing.assert_close(pair.layers[1].mlp.up.lora_a[0, 1], single.layers[1].mlp.up.lora_a[0, 0])


def test_adapter_of_another_size_is_refused(tmp_path: Path) -> None:
    write_adapter(decoder(rank=4), tmp_path)
    with pytest.raises(ValueError, match="does not fit the decoder"):
        read_adapter(decoder(rank=8), tmp_path)


def test_merged_decoder_and_unknown_expert_are_refused(tmp_path: Path) -> None:
    merged = decoder()
    merged.merge()
    with pytest.raises(ValueError, match="merged"):
        write_adapter(merged, tmp_path)
    with pytest.raises(ValueError, match="no expert 1"):
        write_adapter(decoder(), tmp_path, expert=1)
