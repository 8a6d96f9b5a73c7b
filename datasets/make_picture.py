"""Draws the picture of the README: python datasets/make_picture.py [MODEL [OUT.jpg]]

Four test photos of each class of the example, with a model's answers below them. By default the model is
datasets/model_CNN, which the README's first command trains, and the picture is datasets/predictions.jpg.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from scene import Classifier

HERE = Path(__file__).parent
PHOTO, GAP, LINE = (160, 120), 6, 20        # pixels
ROWS, FIRST, STEP = 4, 1, 9                 # photos 1, 10, 19, 28 of each class


def main(model=HERE / "model_CNN", out=HERE / "predictions.jpg"):
    classifier = Classifier.open(model)
    folders = sorted(path for path in (HERE / "test").iterdir() if path.is_dir())
    width, height = PHOTO[0] + GAP, PHOTO[1] + GAP + LINE
    picture = Image.new("RGB", (GAP + width * len(folders), GAP + height * ROWS), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    for column, folder in enumerate(folders):
        for row, path in enumerate(sorted(folder.iterdir())[FIRST::STEP][:ROWS]):
            name, probability = next(iter(classifier.classify(path.read_bytes()).items()))
            x, y = GAP + width * column, GAP + height * row
            picture.paste(Image.open(path).resize(PHOTO, Image.Resampling.LANCZOS), (x, y))
            draw.text((x + 2, y + PHOTO[1] + 3), f"{name} {100 * probability:.0f} %", "black", font)
    picture.save(out, quality=70, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
