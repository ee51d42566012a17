"""Shards: data sets in WebDataset tars, read by index, from a folder or an address such as s3://bucket/data.

```
<root>/manifest.json        what the shards hold, how they were made, and the shards of each split
      /train-000000.tar     a plain WebDataset shard: the files of a sample are members KEY.EXTENSION
      /train-000000.json    its index: offset, size and SHA-256 of each member, ids of its samples
      /train.scenes.json    frames of each recording (recordings only)
```

The index of a shard has the form that webshart, hfutils and cheesechaser read (`files: {name: {offset, size,
sha256}}`). It is written after its shard, and the manifest after everything, so what is there is complete.

| `what` | members of a sample |
|---|---|
| `images` | `face0.jpg` ... `face5.jpg` or `panorama.jpg`, byte for byte; `json`: its captions |
| `images` of a recording | a frame: `color.jpg`, `depth.png`, byte for byte; `json`: its camera; `txt`: its caption |
| `views` | `<yaw>.npy`: views uint8 [V, 3, H, W] at a yaw; `json`: captions |
| `latents` | `<yaw>.npy`: latents of the views [V, C, h, w] at a yaw; `json`: captions |
"""
