"""TrajSeg as a model in label-studio-ml 2.x, for those who host their models there. Needs that package."""
