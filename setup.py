"Everything here is read from settings.ini, the one place for name, version and requirements."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"], "Source": cfg["git_url"],
                  "Changelog": f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md", "Issues": cfg["git_url"] + "/issues"},
    license_expression="Apache-2.0",
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Developers", "Intended Audience :: Science/Research",
                 "Natural Language :: Korean", "Operating System :: OS Independent",
                 "Programming Language :: Python :: 3", "Programming Language :: Python :: 3 :: Only",
                 "Topic :: Scientific/Engineering :: Artificial Intelligence", "Topic :: Text Processing :: Linguistic",
                 "Typing :: Typed"],
    packages=find_packages(include=["koflan", "koflan.*"]),
    package_data={"koflan": ["samples/**/*.jsonl", "py.typed"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={o: cfg[f"{o}_requirements"].split() for o in ("dev", "near", "ray", "s3", "onnx", "baseline")},
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
