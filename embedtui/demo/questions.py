"""Questions in plain words about Python's standard library, with the names of their right answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question as a person would type it; each name in ``answers`` is a right answer where this Python has it."""

    text: str
    answers: tuple[str, ...]


def _questions(*pairs: tuple[str, str]) -> tuple[Question, ...]:
    return tuple(Question(text, tuple(answers.split())) for text, answers in pairs)


QUESTIONS = _questions(
    # files and folders
    ("split a path into folder and file", "os.path.split os.path.dirname os.path.basename"),
    ("get the extension of a file name", "os.path.splitext pathlib.PurePath.suffix"),
    ("copy a whole folder with everything in it", "shutil.copytree"),
    ("delete a folder even if it is not empty", "shutil.rmtree"),
    ("create a directory and all the missing ones above it", "os.makedirs pathlib.Path.mkdir"),
    ("how much free space is left on the disk", "shutil.disk_usage"),
    ("make a file that disappears by itself when I am done", "tempfile.NamedTemporaryFile tempfile.TemporaryFile"),
    ("list all files that match a wildcard such as *.txt", "glob.glob glob.iglob pathlib.Path.glob fnmatch.filter"),
    ("go through a directory tree and visit every file", "os.walk os.fwalk pathlib.Path.rglob pathlib.Path.walk"),
    ("find where a program is installed, like the shell does", "shutil.which"),
    ("pack a directory into a zip or tar file", "shutil.make_archive"),
    ("check whether two files are the same", "filecmp.cmp os.path.samefile os.path.sameopenfile"),
    # text
    ("cut a long paragraph into lines of limited width", "textwrap.wrap textwrap.fill textwrap.TextWrapper.wrap"),
    ("remove the common indentation of a block of text", "textwrap.dedent inspect.cleandoc"),
    ("find words that are spelled almost alike", "difflib.get_close_matches"),
    ("show what changed between two versions of a text", "difflib.unified_diff difflib.ndiff difflib.context_diff"),
    ("substitute every match of a pattern in a string", "re.sub re.subn"),
    ("make user input safe to put into a web page", "html.escape xml.sax.saxutils.escape"),
    ("quote an argument so the shell does not misread it", "shlex.quote shlex.join"),
    ("split a command line into its words respecting quotes", "shlex.split"),
    ("make text lower case for comparing regardless of case", "str.casefold str.lower"),
    ("remove accents by decomposing letters", "unicodedata.normalize unicodedata.decomposition"),
    # numbers and chance
    ("largest number that divides both integers", "math.gcd"),
    ("middle value of a list of numbers", "statistics.median statistics.median_low statistics.median_high"),
    ("how much values spread around their average", "statistics.stdev statistics.pstdev statistics.variance"),
    ("mix up the order of a list at random", "random.Random.shuffle"),
    ("pick some elements at random without repeats", "random.Random.sample"),
    ("produce an unguessable token for a password reset link", "secrets.token_urlsafe secrets.token_hex"),
    ("add up floats without losing precision", "math.fsum"),
    ("round up to the next whole number", "math.ceil"),
    # collections and iteration
    ("count how often each item occurs", "collections.Counter collections.Counter.most_common"),
    ("a dictionary that makes up a value when a key is missing", "collections.defaultdict"),
    ("all orderings of a list", "itertools.permutations"),
    ("get the smallest few items without sorting everything", "heapq.nsmallest"),
    ("keep a list sorted while putting in new items", "bisect.insort_right bisect.insort_left"),
    ("chop a sequence up into groups with the same key", "itertools.groupby"),
    ("remember results of an expensive function so it runs once", "functools.lru_cache functools.cache"),
    ("fix some arguments of a function in advance", "functools.partial"),
    ("join several iterables one after the other", "itertools.chain itertools.chain.from_iterable"),
    ("duplicate an object including everything inside it", "copy.deepcopy"),
    # time
    ("turn a string with a date into a date object", "datetime.datetime.strptime datetime.date.fromisoformat"),
    ("pause the program for a few seconds", "time.sleep"),
    ("is this year a leap year", "calendar.isleap"),
    ("measure how long a piece of code takes", "timeit.timeit timeit.Timer.timeit time.perf_counter timeit"),
    # at the same time
    ("run a function later in another thread", "threading.Timer concurrent.futures.Executor.submit"),
    ("let only a limited number of threads in at once", "threading.Semaphore threading.BoundedSemaphore"),
    ("wait for several coroutines together", "asyncio.gather asyncio.wait asyncio.TaskGroup"),
    (
        "use all processors to apply a function to a list",
        "multiprocessing.pool.Pool.map concurrent.futures.Executor.map",
    ),
    ("give up on an async call that takes too long", "asyncio.wait_for asyncio.timeout"),
    ("start another program and capture what it prints", "subprocess.run subprocess.check_output"),
    # networks and formats
    ("take a web address apart", "urllib.parse.urlparse urllib.parse.urlsplit"),
    ("download a web page", "urllib.request.urlopen urllib.request.urlretrieve"),
    ("send an e-mail through a mail server", "smtplib.SMTP.sendmail smtplib.SMTP.send_message smtplib.SMTP"),
    ("read a spreadsheet export with commas row by row", "csv.reader"),
    ("turn an object into JSON text", "json.dumps json.dump json.encoder.JSONEncoder.encode"),
    ("store a Python object in a file and load it back", "pickle pickle.dump pickle.load shelve"),
    ("checksum to tell whether data was damaged", "zlib.crc32 binascii.crc32 zlib.adler32"),
    ("ask the user for a secret without showing it on screen", "getpass.unix_getpass getpass"),
    ("define options for a command line program", "argparse.ArgumentParser argparse optparse.OptionParser"),
    ("print a nested structure so that a human can read it", "pprint.pprint pprint.pp pprint.pformat pprint"),
)
"""Sixty of them."""

ANSWERS = frozenset(answer for question in QUESTIONS for answer in question.answers)
"""All names that answer some question; the corpus never leaves these out."""
