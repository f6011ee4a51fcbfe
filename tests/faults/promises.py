"""What the pipeline promises, the fault that is injected for each, and the test that does it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """``faults``: what is done to the pipeline -> the test (file below tests/, without its ending, and function)."""

    name: str
    text: str
    faults: dict[str, str]


PROMISES = (
    Promise(
        "Everything is checked first",
        "All problems of all cases are told at once, before anything is computed.",
        {
            "a data set with one bad case of each kind": "datasets/test_raw_and_checks::test_one_table_lists_every_bad_case",
            "the same through the command": "commands/test_check::test_every_problem_of_every_case_and_what_is_unusual",
            "labels that are off by rounding": "volumes/test_headers::test_labels_scaled_in_single_precision_are_whole",
            "headers in metres or microns": "volumes/test_headers::test_units_of_the_header_count",
            "endings in capitals, and files that are no scans": "datasets/test_raw_and_checks::"
            "test_endings_in_capitals_count_and_other_files_are_named",
            "voxels of a doubtful size": "commands/test_check::test_voxels_of_an_unusual_size_are_told",
            "labels of several channels, one image with two labels": "commands/test_check::"
            "test_a_label_file_of_several_channels_and_one_image_with_two_labels",
            "labels on another grid, mended in a copy": "commands/test_check::test_geometry_is_mended_in_a_copy",
        },
    ),
    Promise(
        "One bad case costs no other",
        "A case that fails is named, the others are done, and the exit code says so.",
        {
            "any exception while a scan is read, segmented or written": "inference/test_batch::"
            "test_one_case_never_ends_the_others",
            "a scan that is damaged": "commands/test_predict::test_a_corrupt_scan_is_named_and_the_others_are_done",
            "a damaged case while preprocessing": "preprocessing/test_run::"
            "test_bad_cases_are_listed_together_and_the_others_done",
            "an exception of this program in one case": "test_parallel::test_a_crash_costs_its_own_case",
            "too little memory for all workers": "test_parallel::test_no_more_workers_than_the_memory_has_room_for",
            "the same while evaluating": "evaluation/test_evaluate::test_as_many_work_at_a_time_as_memory_has_room_for",
            "a worker process is killed": "test_parallel::test_cases_after_a_killed_one_are_done",
            "a worker process is stopped (SIGSTOP)": "test_parallel::test_a_stopped_worker_is_named_and_ended",
            "one is stopped or killed while evaluating": "evaluation/test_evaluate::test_a_lost_worker_is_named_with_its_case",
            "one is stopped or killed while converting": "dataset_conversion/test_raw_layout::"
            "test_a_lost_worker_costs_its_case_alone",
            "the scheduler of a cluster is killed": "test_cluster::test_a_killed_scheduler_is_told",
            "a worker process does not end": "test_parallel::test_a_slow_worker_is_named_and_ended_and_others_go_on",
        },
    ),
    Promise(
        "A record tells the truth",
        "`prediction.json` says what each segmentation was made from and with. A rerun does what is missing or changed.",
        {
            "the scan was changed since": "inference/test_earlier::test_kept_or_made_again",
            "the scan was changed, through the command": "commands/test_prediction_record::"
            "test_a_changed_scan_is_segmented_again",
            "another model, or other settings": "inference/test_earlier::test_what_was_made_otherwise_is_made_again",
            "other settings, or weights trained anew, through the command": "commands/test_prediction_record::"
            "test_what_was_made_otherwise_is_made_again_but_edited_work_is_kept",
            "the drawing that it completes was corrected": "commands/test_given_labels::"
            "test_a_drawing_that_was_corrected_is_completed_again",
            "one bit of a kept one is flipped": "inference/test_earlier::test_a_segmentation_with_a_flipped_bit_is_made_again",
            "half a file, or an empty one, is there": "inference/test_earlier::test_half_a_file_is_made_again",
            "a segmentation that no record knows": "inference/test_earlier::"
            "test_a_file_that_no_record_tells_of_is_kept_and_told",
            "other files among segmentations": "evaluation/test_evaluate::test_what_is_passed_over_is_said",
        },
    ),
    Promise(
        "Interrupted work goes on",
        "The same command again comes to the same weights and files, to the last bit.",
        {
            "kill -9 while preprocessing": "faults/test_kills::test_killed_while_preprocessing",
            "kill -9 while training": "faults/test_kills::test_killed_while_training",
            "kill -9 while predicting": "faults/test_kills::test_killed_while_predicting",
            "kill -9 while a checkpoint is written": "faults/test_checkpoint_kills::test_killed_while_a_checkpoint_is_written",
            "SIGTERM while training": "training/test_job::test_sigterm_ends_with_a_checkpoint_from_which_it_goes_on",
            "SIGTERM between training and validation": "training/test_job::"
            "test_sigterm_in_the_last_step_ends_it_after_the_fold_is_written",
            "the last checkpoint is damaged": "training/test_checkpoints::test_a_damaged_checkpoint_gives_way_to_the_previous",
            "all checkpoints are damaged": "training/test_checkpoints::"
            "test_two_damaged_checkpoints_are_an_error_not_a_fresh_start",
            "a whole checkpoint lacks a tensor": "training/test_loop::test_a_whole_checkpoint_that_lacks_a_tensor_is_refused",
            "any single bit of a checkpoint is flipped": "training/test_checkpoints::"
            "test_any_changed_bit_is_noticed_or_without_meaning",
            "the training log is damaged": "training/test_loop::test_a_damaged_log_does_not_end_a_resumed_training",
        },
    ),
    Promise(
        "Nothing is waited for in vain",
        "A process that dies or stands still is named within a minute, and nothing of it is left behind.",
        {
            "the process that makes batches is killed": "data/test_loader::test_killed_worker_is_an_error_and_not_a_wait",
            "it is killed while the training computes": "data/test_loader::"
            "test_a_worker_lost_while_the_training_computes_is_told_as_one",
            "it is stopped (SIGSTOP)": "data/test_loader::test_a_stopped_worker_is_an_error_and_not_a_wait",
            "the first process is killed: the others end": "test_parallel::test_processes_end_with_the_one_that_started_them",
            "every process dies at once": "test_parallel::test_where_no_process_lives_the_others_are_not_tried",
            "a cluster cannot be reached": "test_cluster::test_a_connection_that_fails_is_closed_at_once",
            "a second run in the same folder": "test_alone::test_the_second_is_refused_and_told_who_the_first_is",
        },
    ),
    Promise(
        "A full disk loses nothing",
        "The error names the file; no half file bears a final name; what was there stays as it was.",
        {
            "while preprocessing": "faults/test_full_disks::test_while_preprocessing",
            "while training": "faults/test_full_disks::test_while_training",
            "while predicting": "faults/test_full_disks::test_while_predicting",
            "while evaluating": "faults/test_full_disks::test_while_evaluating",
            "in the middle of an image": "faults/test_full_disks::test_while_writing_an_image",
            "a read-only disk": "faults/test_full_disks::test_a_read_only_disk_is_said",
            "a full temporary folder": "faults/test_full_disks::test_a_full_temporary_folder_is_said",
            "one with a long name, and training": "faults/test_full_disks::test_a_training_needs_no_temporary_folder",
            "too little shared memory, as in a container": "faults/test_full_disks::test_too_little_shared_memory_is_said",
        },
    ),
    Promise(
        "Damage is noticed",
        "What was changed after it was written is refused, not used in silence.",
        {
            "one bit of compressed voxels is flipped": "volumes/test_compressed::"
            "test_one_flipped_bit_is_found_or_changes_nothing",
            "a file is cut off": "volumes/test_bad_files::test_truncated_file_is_named",
            "a direction of 1e308 in MHA, MHD, NRRD": "volumes/test_bad_files::"
            "test_a_direction_at_which_itk_never_ends_is_refused",
            "directions in DICOM that are none": "volumes/test_dicom::test_directions_that_are_none_are_an_error",
            "the last slice of a DICOM series is lost": "volumes/test_dicom::test_a_last_slice_that_was_lost_is_an_error",
            "a model's plan is edited": "models/test_folder::test_a_plan_that_was_changed_after_the_training_is_refused",
            "the plan of stored cases is edited": "data/test_patches::test_cases_made_with_another_plan_are_refused",
            "random damage to every kind of file": "faults/test_fuzz::test_a_damaged_file_is_read_or_refused_in_words",
        },
    ),
    Promise(
        "A stranger's file does no harm",
        "Nothing in it is run, nothing is written outside, nothing absurd is allocated.",
        {
            "a pickle in a model": "faults/test_strangers::test_a_pickle_in_a_model_is_not_run",
            "a pickle in a checkpoint or a zip file": "faults/test_strangers::"
            "test_a_pickle_in_a_checkpoint_or_an_archive_is_not_run",
            "a pickle called an image": "faults/test_strangers::test_a_pickle_called_an_image_is_not_run",
            "an expression in a stored case": "faults/test_strangers::test_an_expression_in_a_stored_case_is_not_evaluated",
            "a stored case of petabytes": "faults/test_strangers::"
            "test_a_stored_case_of_absurd_size_is_refused_before_it_is_unpacked",
            "stored distances of petabytes, or that are no numbers": "faults/test_strangers::"
            "test_stored_distances_of_absurd_size_or_that_are_no_numbers_are_refused",
            "a pickle among kept registrations": "atlases/test_registered::test_a_pickle_among_kept_registrations_is_not_run",
            "kept registrations that unpack to any size": "atlases/test_registered::"
            "test_kept_registrations_that_are_compressed_are_not_unpacked",
            "a zip file that unpacks to too much": "faults/test_strangers::"
            "test_an_archive_that_unpacks_to_too_much_is_refused_before",
            "a link in a zip file": "faults/test_strangers::test_a_link_in_an_archive_is_refused",
            "a name of a case that leads elsewhere": "datasets/test_raw_and_checks::"
            "test_a_case_is_not_named_like_a_place_elsewhere",
            "a name of a split that leads elsewhere": "datasets/test_splits::test_wrong_files_are_explained",
            "a data set whose files lie elsewhere": "commands/test_check::test_files_elsewhere_are_not_copied",
            "HTML in names": "report/test_page::test_hostile_names_of_all_else_are_shown_as_they_are",
            "a plan that asks for the absurd": "faults/test_strangers::test_a_plan_that_asks_for_the_absurd_is_refused",
            "an element of gigabytes in a DICOM file": "volumes/test_dicom_elements::"
            "test_a_length_beyond_the_end_is_refused_within_sequences_too",
            "a gzip bomb": "volumes/test_compressed::test_a_bomb_is_refused_before_it_is_unpacked",
            "voxels in another folder": "volumes/test_compressed::test_voxels_in_another_folder_are_not_read",
            "voxels in a list of files": "volumes/test_compressed::test_voxels_in_a_list_of_files_are_not_read",
        },
    ),
    Promise(
        "Numbers stay numbers",
        "What is not finite passes no stage; the same scan and seed give the same segmentation.",
        {
            "a batch without a finite gradient": "training/test_loop::"
            "test_a_batch_without_a_finite_gradient_is_skipped_counted_and_said",
            "a training that diverges": "training/test_loop::test_divergence_is_an_error_not_a_silent_nan",
            "weights, or an answer, that are not finite": "inference/test_predictor::"
            "test_what_is_not_finite_is_refused_not_read_as_background",
            "distances or intensities that are not finite": "preprocessing/test_store::test_what_is_not_finite_is_not_stored",
            "other scans before it": "inference/test_predictor::"
            "test_a_scan_does_not_depend_on_the_others_but_on_seed_and_content",
            "another name, an array, another type": "api/test_model::test_every_way_to_give_a_scan_equals_the_command",
            "bfloat16 instead of float32: a Dice of 0.98 and more between the two": "inference/test_precisions::"
            "test_precisions_agree",
            "several windows at a time": "inference/test_precisions::test_windows_at_a_time_do_not_matter",
            "fifty scans in one process": "faults/test_growth::test_memory_does_not_grow_with_the_scans",
            "seven times as many cases": "faults/test_growth::"
            "test_memory_of_planning_and_preprocessing_does_not_grow_with_the_cases",
        },
    ),
)
