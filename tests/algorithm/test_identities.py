"""The 38 identities that the algorithms rest on, and the tests that state them; a file, then names in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
ESTIMATOR, BOUND, RIVALS, TRAINING, RUNS = (
    "algorithm/test_identities_estimator.py", "algorithm/test_identities_bound.py",
    "algorithm/test_identities_rivals.py", "training/test_identities_training.py", "training/test_trainer.py",
)
IDENTITIES: dict[int, tuple[str, ...]] = {
    1: (ESTIMATOR, "test_enumerated_elbo_agrees_in_three_forms"),
    2: (ESTIMATOR, "test_elbo_is_the_mean_over_all_orders_of_one_token_at_a_time"),
    3: (ESTIMATOR, "test_elbo_is_a_lower_bound_of_the_any_order_likelihood"),
    4: (ESTIMATOR, "test_count_with_zero_enumerates_to_the_elbo"),
    5: (ESTIMATOR, "test_complementary_pair_enumerates_to_the_elbo"),
    6: (ESTIMATOR, "test_count_with_zero_weight_is_the_mean_of_one_over_t_given_the_count"),
    7: (ESTIMATOR, "test_without_context_every_count_has_the_same_mean_and_half_masks_no_spread"),
    8: (ESTIMATOR, "test_one_position_needs_one_mask_and_has_no_variance"),
    9: (ESTIMATOR, "test_sample_of_the_full_mask_is_the_one_pass_score"),
    10: (ESTIMATOR, "test_gauss_nodes_are_exact_from_half_the_length_on",
         "test_gauss_draws_average_to_the_enumerated_elbo"),
    11: (BOUND, "test_on_policy_bound_and_objective_equal_the_advantage"),
    12: (BOUND, "test_on_policy_gradient_is_the_advantage_weighted_mean_of_elbo_gradients",
         "test_on_policy_gradients_of_bound_and_objective_are_bit_identical"),
    13: (BOUND, "test_detached_new_values_may_stand_for_the_old_ones"),
    14: (BOUND, "test_bound_never_exceeds_the_objective_off_policy",
         "test_bound_is_tight_where_good_completions_kept_their_mean_and_bad_ones_their_spread"),
    15: (BOUND, "test_gap_follows_its_asymptotics"),
    16: (BOUND, "test_separate_backwards_add_up_to_the_full_graph"),
    17: (BOUND, "test_two_pass_gradient_is_the_full_graphs_off_policy",
         "test_accumulated_gradient_agrees_with_central_differences_off_policy"),
    18: (BOUND, "test_gradient_is_the_weighted_sum_of_elbo_gradients",
         "test_gradient_of_good_completions_ignores_the_old_policy"),
    19: (BOUND, "test_clipped_bound_never_exceeds_the_clipped_objective", "test_dual_clip_breaks_the_bound"),
    20: (BOUND, "test_clip_changes_nothing_on_policy", "test_clip_silences_draws_that_have_gone_far_enough"),
    21: (BOUND, "test_values_and_gradients_are_finite_where_log_one_plus_d_is_not"),
    22: (BOUND, "test_sample_over_length_is_the_mean_log_probability_of_its_masked_tokens",
         "test_length_normalisation_divides_the_on_policy_gradient_by_the_length"),
    23: (BOUND, "test_zero_advantage_gives_zero_gradient_and_may_be_dropped"),
    24: (BOUND, "test_on_policy_gradient_is_odd_in_the_advantage"),
    25: (BOUND, "test_shared_masks_cancel_in_a_group_of_equal_completions"),
    26: (ESTIMATOR, "test_systematic_strata_visit_every_count_once_over_all_offsets",
         "test_rounded_systematic_counts_never_visit_some"),
    27: (ESTIMATOR, "test_draws_average_to_the_enumerated_elbo", "test_spread_falls_from_iid_to_antithetic_draws"),
    28: (TRAINING, "test_draws_depend_on_seed_and_step_alone",
         "test_old_new_and_reference_see_the_same_masks_however_they_are_cut"),
    29: (TRAINING, "test_head_on_masked_rows_is_the_head_on_all_rows_gathered_afterwards"),
    30: (TRAINING, "test_chunked_cross_entropy_is_the_unchunked_one"),
    31: (TRAINING, "test_packed_completions_score_as_each_alone",
         "test_padding_on_either_side_changes_no_state_whatever_it_holds"),
    32: (RIVALS, "test_espo_on_policy_is_bgpo_over_the_length"),
    33: (RIVALS, "test_spg_with_the_elbo_for_both_signs_is_bgpo_over_the_length",
         "test_eubo_weights_of_a_position_average_to_one", "test_eubo_tends_to_the_elbo_as_beta_vanishes",
         "test_eubo_at_beta_one_is_the_log_of_the_weighted_mean_probability"),
    34: (RIVALS, "test_d1_token_gradients_add_up_to_the_advantage_times_the_one_pass_gradient"),
    35: (RIVALS, "test_k2_gradient_is_the_elbo_difference_times_the_elbo_gradient",
         "test_k2_gradient_is_zero_at_the_reference"),
    36: (BOUND, "test_re_anchored_bound_never_exceeds_the_objective", "test_re_anchored_bound_is_tight_at_its_anchor"),
    37: (ESTIMATOR, "test_block_elbo_is_the_mean_over_the_orders_that_respect_the_blocks",
         "test_block_draws_average_to_the_block_elbo"),
    38: (RUNS, "test_stopped_and_resumed_equals_uninterrupted"),
}


def test_all_thirty_eight_are_here():
    assert list(IDENTITIES) == list(range(1, 39))


@pytest.mark.parametrize("number", IDENTITIES)
def test_identity_has_its_test(number):
    file, *names = IDENTITIES[number]
    functions = [node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert names and set(names) <= set(functions)
