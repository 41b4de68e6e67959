"""For people who host their models in label-studio-ml 2.x: TrajSeg as one of them. Needs that package."""
