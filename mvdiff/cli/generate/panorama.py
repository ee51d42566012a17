"""`mvdiff generate panorama`: panoramas from prompts."""

from __future__ import annotations

from mvdiff.cli.command import Command, done, tally, typed
from mvdiff.cli.generate.options import OutputOptions, PromptOptions, check_places, write_pictures
from mvdiff.cli.opening import MemoryOptions, MethodOptions, open_method
from mvdiff.cli.out_files import make_folder
from mvdiff.settings import PanoramaPictures, Sampling


def run(
    prompts: PromptOptions,
    output: OutputOptions,
    pictures: PanoramaPictures,
    sampling: Sampling,
    model: MethodOptions,
    memory: MemoryOptions,
) -> int:
    """Generate; return the exit status."""
    entries = entries_of(prompts)
    check_places(output.out, model)
    make_folder(output.out)

    from mvdiff.tasks.panorama import PanoramaTask

    method = open_method(model, memory, PanoramaTask(), output.no_caa)
    return write_panoramas(method, entries, output, pictures, sampling, batch_size=prompts.batch_size)


def entries_of(options: PromptOptions) -> list:
    """Return the samples that --prompt or --prompts ask for."""
    from mvdiff.pipelines.prompt_files import PromptEntry, read_prompts, repeated

    if options.prompts is not None:
        return repeated(read_prompts(options.prompts), options.num_samples)
    prompt = options.prompt[0] if len(options.prompt) == 1 else tuple(options.prompt)
    return repeated([PromptEntry("0000", prompt)], options.num_samples)


def write_panoramas(
    method,
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
    from mvdiff.methods.method import write_method
    from mvdiff.pipelines.calls import rig_batch
    from mvdiff.pipelines.prompt_files import expand_prompts

    rig = method.rig
    if rig is None:
        raise ValueError(f"method must know which views to generate; got {method.name}, which has no rig.")
    prompts = expand_prompts([entry.prompt for entry in entries], rig.num_views)
    batch = rig_batch(rig, prompts, [entry.sample_id for entry in entries], **fields)
    how = {"seed": output.seed, "overwrite": output.overwrite, "batch_size": batch_size, "paste_back": paste_back}
    counts = write_method(method, [batch], output.out, sampling, rig=rig, **how)
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
    settings=(PromptOptions, OutputOptions, PanoramaPictures, Sampling, MethodOptions, MemoryOptions),
    run=run,
)
