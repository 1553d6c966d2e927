"""What fine-tuning scripts for this codec have got wrong, and the tests that hold us to doing better."""

import ast
import itertools
import shutil

import numpy as np
import pytest
from made_training import CODEC, NATIVE, REPOSITORY

from snac_pipeline.codec import CodecSpec
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder, read_codes
from snac_pipeline.codes.view import CodesView, build_view
from snac_pipeline.training.data import SpeechSlices
from snac_pipeline.training.slices import plan_epoch

SPEC = CodecSpec.from_dict(CODEC)

HELD_BY = {
    "audio and codes are cut with the wrong hop, so that targets drift": [
        "training/test_training_alignment.py::test_a_target_correlates_best_with_the_audio_at_its_own_place",
        "training/test_training_alignment.py::test_tokens_and_samples_of_a_slice_cover_the_same_time",
        "codec/test_codec_spec.py::test_samples_frames_and_tokens_invert_one_another",
    ],
    "segments of 4 s decode to 2.3 s, so that half of the target is never supervised": [
        "codec/test_codec_spec.py::test_a_segment_is_whole_units_within_half_a_unit_of_the_seconds_asked_for",
        "training/test_training_alignment.py::test_every_sample_of_the_segment_is_supervised_and_no_other",
    ],
    "an initialisation of the 48 kHz head has no effect": [
        "codec/test_codec_heads.py::test_an_untrained_head_is_the_interpolated_native_output",
        "training/test_training_groups.py::test_an_untrained_second_head_is_the_base_decoder_and_its_interpolation",
    ],
    "the 24 kHz head drops the final Snake and starts away from the pretrained decoder": [
        "training/test_training_groups.py::test_an_untrained_second_head_is_the_base_decoder_and_its_interpolation",
        "codec/test_codec_heads.py::test_a_trained_head_leaves_the_native_output_as_it_was_bit_for_bit",
    ],
    "the STFT has no window, and real and imaginary parts outweigh the waveform 64 times": [
        "training/test_training_losses.py::test_the_stft_is_the_windowed_one_with_a_hop_of_a_quarter",
        "training/test_training_losses.py::"
        "test_the_magnitude_term_is_no_l1_of_real_and_imaginary_parts_and_outweighs_the_waveform_less",
    ],
    "one scalar max_lr erases the learning rates of the groups": [
        "training/test_training_schedules.py::test_onecycle_is_torch_s_with_the_peak_of_every_group_its_own",
        "training/test_training_runs.py::"
        "test_at_every_step_each_part_has_its_own_rate_and_a_frozen_one_no_gradient",
    ],
    "cached without the model's padding, codes are not those of encode()": [
        "codes/test_codes_exact.py::test_every_cached_row_equals_its_utterance_encoded_alone",
    ],
    "files vanish without a word, and so do those under 1 s": [
        "corpus/test_corpus_scan.py::test_what_cannot_be_used_is_quarantined_with_a_reason_and_the_rest_is_kept",
        "codes/test_codes_exact.py::test_a_file_shorter_than_a_coarse_frame_has_one_frame",
        "codes/test_codes_todo.py::test_a_file_lost_after_the_scan_is_named_and_all_others_are_cached",
        "training/test_training_slices.py::"
        "test_every_utterance_is_heard_as_often_as_segments_fit_and_at_least_once",
    ],
    "a whole parquet file is read for every training item": [
        "training/test_training_known_mistakes.py::test_slices_are_read_without_any_parquet_file",
    ],
    "parts are numbered by counting files, and four GPUs are hard-coded": [
        "codes/test_codes_parts.py::test_a_part_is_named_by_its_members_in_any_order",
        "codes/test_codes_processes.py::"
        "test_a_worker_killed_in_the_middle_costs_no_row",
        "engine/test_local.py::test_every_part_is_done_once_and_each_process_keeps_its_device",
    ],
}  # fmt: skip


@pytest.mark.parametrize("mistake", HELD_BY)
def test_the_tests_that_hold_against_a_known_mistake_are_there(mistake):
    for place in HELD_BY[mistake]:
        file, name = place.split("::")
        tree = ast.parse((REPOSITORY / "tests" / file).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, place


def test_slices_are_read_without_any_parquet_file(home):
    """The parts are gone once the view is built; every slice is still there, and the same."""
    rows, folder = home.utterances, codes_folder(home.work, encoder_fingerprint(home.start()))
    digests = rows["digest"].to_list()
    view, whole = build_view(home.work, folder, digests, SPEC), read_codes(folder, digests)
    shutil.rmtree(folder)
    dataset = SpeechSlices(rows["file"].to_list(), digests, SPEC, (NATIVE,), view)
    for item in itertools.chain.from_iterable(plan_epoch(CodesView(view).frames, 4, 1, 4, 1, 0, 0)):
        read = dataset[item]
        assert read["targets"][NATIVE].shape[-1] == SPEC.samples(item.segment)
        for k, (level, n) in enumerate(zip(read["codes"], SPEC.tokens_per_frame, strict=True)):
            expected = whole[f"codes_{k}"][item.row].to_numpy()[item.window_start * n :][: item.window * n]
            assert len(expected) == item.present * n
            assert np.array_equal(level[: len(expected)], expected)
