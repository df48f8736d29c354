"""The value of ignored voxels in organ maps: voxels that nobody annotated count in no loss, head, normalisation or metric."""

#: in organ maps, uint8 or int64; organs are 1..K with K far below it
IGNORED = 255
