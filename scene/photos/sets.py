"""TRAIN and TEST, from one folder or two to pixels, with a report on the terminal.

Next: gather.py
"""

import math
import sys

from scene import memory
from scene.errors import UserError, printable
from scene.photos import folder, split
from scene.photos.findings import table
from scene.photos.hints import count, in_words

LEAST_SIZE = 8              # pixels a side of a decoded photo
MANY_CLASSES = 20           # of more, not every number of photos is printed


def load_both(train, test, size, skip_bad, cache=None):
    """The Photos of two folders, and the findings, which it prints. Raises DataError with every problem."""
    listings = [folder.scan(path) for path in (train, test)]
    say_listings(listings)
    return load_train(listings, size, folder.check(*listings), skip_bad, cache)


def load_one(photos, size, skip_bad, cache=None):
    """The Photos of one folder, all of them to train on, and the findings, as in `load_both`."""
    listing = folder.scan(photos)
    say_listings([listing])
    return load_train([listing], size, folder.check_train(listing), skip_bad, cache)


def load_train(listings, size, findings, skip_bad, cache, divide=None):
    """Loads folders to train on, and prints the findings."""
    check_memory(listings, size, "Choose a smaller --image-size{}, or use fewer photos.", cache)
    sets, findings = load(listings, listings[0].classes, size, findings, skip_bad, divide, cache)
    say_findings(findings)
    return *sets, findings


def load_split(photos, size, skip_bad, share, seed, file=None, cache=None):
    """Divides one folder: the Photos of TRAIN and of TEST, the findings, and the list of both.

    share, seed: for photos/split.py, unless a file has the list. The list is the bytes of such a file.
    """
    listing = folder.scan(photos)
    say_listings([listing])
    wanted = split.read(file) if file else None
    findings = folder.check_train(listing) + ([] if file else split.find_few(listing))
    written = []

    def divide(listing, groups):
        if file:
            listings, findings = split.follow(listing, wanted, file)
        else:
            listings, findings = split.split(listing, groups, share, seed)
        written.append(split.write(listing, listings, groups))
        return listings, findings

    train, test, findings = load_train([listing], size, findings, skip_bad, cache, divide)
    how = f"as in {printable(file)}" if file else f"by seed {seed}"
    numbers = f"{len(train.labels)} photos to train on, {len(test.labels)} to test on"
    print(f"Divided {how}: {numbers}.", flush=True)
    return train, test, findings, written[0]


def load_test(test, classes, size, skip_bad, cache=None):
    """The Photos of TEST for a model with these classes, and the findings, as in `load_both`."""
    listing = folder.scan(test)
    say_listings([listing])
    findings = folder.check_test(classes, listing)
    check_memory([listing], size, "Divide TEST into parts, and test one after another.", cache)
    sets, findings = load([listing], classes, size, findings, skip_bad, cache=cache)
    say_findings(findings)
    return *sets, findings


def check_memory(listings, size, advice, cache=None):
    """Raises UserError if the decoded photos fit neither into the cache nor into the memory.

    {} in advice: what would fit.
    """
    photos = sum(len(listing.paths) for listing in listings)
    needed = photos * size * size * 3
    free = memory.available()
    if needed > free and not (cache and cache.takes(photos, size)):
        largest = math.isqrt(int(0.8 * free) // (3 * photos))           # training needs some, too
        fits = f", at most {largest}" if largest >= LEAST_SIZE else ""
        full = f" and the cache has no room ({cache.room()})" if cache else ""
        raise UserError(f"{photos} photos of {size}x{size} pixels need {memory.size(needed)} of memory, but "
                        f"only {memory.size(free)} are free{full}. {advice.format(fits)}")


def load(*arguments, **options):
    """Calls folder.load, and says what helps if memory runs out."""
    try:
        return folder.load(*arguments, **options)
    except (MemoryError, OSError, RuntimeError) as error:
        if not memory.is_exhausted(error):
            raise
        raise UserError(f"{memory.describe(error)} Close other programs, or choose a smaller --image-size.") \
            from error


def say_listings(listings):
    """Prints how many photos each folder has in each class, and the files passed over."""
    for listing in listings:
        counts = {name: len(photos) for name, photos in listing.photos.items()}
        print(f"{printable(listing.folder)}: {count(len(listing.paths), 'photo')} of "
              f"{count(len(counts), 'class', 'classes')}: {describe_counts(counts)}")
        if listing.passed_over:
            print(f"  passed over: {in_words(listing.passed_over)}")
    sys.stdout.flush()


def describe_counts(counts):
    """The number of photos in each class, {name: number}, or of many classes the smallest and the largest."""
    words = [f"{printable(name)} {number}" for name, number in counts.items()]
    if len(words) <= MANY_CLASSES:
        return ", ".join(words) or "none"
    least, most = min(counts.values()), max(counts.values())
    if least == most:
        return f"{least} each"
    fewest, largest = (words[list(counts.values()).index(number)] for number in (least, most))
    return f"from {fewest} to {largest}"


def say_findings(findings):
    """Prints the table of findings, if there are any."""
    if findings:
        print(table(findings), flush=True)
