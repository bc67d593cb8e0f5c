"""What lets old YOLOv5 releases run on a current Python stack."""
