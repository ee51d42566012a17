"""`mvdiff generate panorama`: panoramas from prompts."""

from __future__ import annotations

from mvdiff.cli.command import Command, done, tally, typed
from mvdiff.cli.generate.options import OutputOptions, PromptOptions, check_places, write_pictures
from mvdiff.cli.opening import MemoryOptions, ModelOptions, open_pipeline
from mvdiff.cli.out_files import make_folder
from mvdiff.settings import PanoramaPictures, Sampling


def run(
    prompts: PromptOptions,
    output: OutputOptions,
    pictures: PanoramaPictures,
    sampling: Sampling,
    model: ModelOptions,
    memory: MemoryOptions,
) -> int:
    """Generate; return the exit status."""
    entries = entries_of(prompts)
    check_places(output.out, model)
    make_folder(output.out)

    from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

    pipeline = open_pipeline(MVDiffusionPanoramaPipeline, model, memory)
    return write_panoramas(pipeline, entries, output, pictures, sampling, batch_size=prompts.batch_size)


def entries_of(options: PromptOptions) -> list:
    """Return the samples that --prompt or --prompts ask for."""
    from mvdiff.pipelines.prompt_files import PromptEntry, read_prompts, repeated

    if options.prompts is not None:
        return repeated(read_prompts(options.prompts), options.num_samples)
    prompt = options.prompt[0] if len(options.prompt) == 1 else tuple(options.prompt)
    return repeated([PromptEntry("0000", prompt)], options.num_samples)


def write_panoramas(
    pipeline,
    entries: list,
    output: OutputOptions,
    pictures: PanoramaPictures,
    sampling: Sampling,
    *,
    batch_size: int,
    paste_back: bool = True,
    **fields,
) -> int:
    """Generate the entries' panoramas; `fields` of the batch say what is given of them."""
    from mvdiff.pipelines.calls import rig_batch
    from mvdiff.pipelines.prompt_files import expand_prompts
    from mvdiff.pipelines.sample_folders import generate_samples

    prompts = expand_prompts([entry.prompt for entry in entries], pipeline.rig.num_views)
    batch = rig_batch(pipeline.rig, prompts, [entry.sample_id for entry in entries], **fields)
    how = output.arguments(sampling) | {"batch_size": batch_size, "paste_back": paste_back}
    counts = generate_samples(pipeline, batch, output.out, **how)
    write_pictures(output.out, batch.sample_id, pictures)
    done(
        f"{output.out}: {tally(counts.written, counts.skipped, 'panorama')}",
        typed("mvdiff", "report", output.out),
        typed("mvdiff", "video", output.out),
    )
    return 0


COMMAND = Command(
    name="generate panorama",
    summary="all views of a panorama at once, from text",
    description="Generate panoramas from prompts. Writes a folder per panorama into --out: <i>.png for each view, "
    "panorama.png, and sample.json, which marks the sample as complete. A rerun skips complete samples.",
    example='mvdiff generate panorama --model mvdiff://toy-caa --prompt "a red sofa, mint walls, wood floor" '
    "--guidance_scale 2 --out out",
    settings=(PromptOptions, OutputOptions, PanoramaPictures, Sampling, ModelOptions, MemoryOptions),
    run=run,
)
