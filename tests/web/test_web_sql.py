"""Statements of visitors at /index: what they may do, and what they may take."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from neuromirror.web.server.datasette_pool import MAX_CONCURRENT
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, peak_memory, run_catalogue

_MEMORY = 1 << 30
"""What all processes of a catalogue have together, while they are attacked."""


def sql_url(sql: str, form: str = "json", **more: str) -> str:
    extra = "".join(f"&{name}={quote(value, safe='')}" for name, value in more.items())
    return f"/index.{form}?sql={quote(sql, safe='')}{extra}"


def of_family(pid: int) -> list[int]:
    """A process and those that it started."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


class MemoryMonitor:
    """The peaks of a family of processes, together, while the block lasted."""

    def __init__(self, pid: int) -> None:
        self.pid, self.memory = pid, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> MemoryMonitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            with suppress(OSError):  # one has ended
                total = sum(map(peak_memory, of_family(self.pid)))
                self.memory = max(self.memory, total)


BIG = "printf('%.*c',900000,'x')"
COUNT = "with recursive n(i) as (select 1 union all select i+1 from n limit {})"
ATTACKS = {
    "printf": "select printf('%.*c',20000000,'x')",
    "format": "select format('%900000000d', 1)",
    "group_concat": f"{COUNT.format(10**3)} select group_concat({BIG}) from n",
    "json_group_array": f"{COUNT.format(10**5)} select json_group_array({BIG}) from n",
    "replace": f"select replace({BIG}, 'x', {BIG})",
    "replace twice": f"select replace(replace({BIG},'x',{BIG}),'x','xx')",
    "zeroblob": "select zeroblob(900000000)",
    "randomblob": "select hex(randomblob(400000000))",
    "rows": f"{COUNT.format(10**6)} select i, {BIG} from n",
    "columns": f"{COUNT.format(10**4)} select {', '.join([BIG] * 150)} from n",
    "sort": f"{COUNT.format(10**6)} select i, {BIG} as x from n order by x, i desc",
    "distinct": f"{COUNT.format(10**6)} select distinct {BIG} || i from n",
    "window": f"{COUNT.format(10**6)} select max({BIG} || i) over (order by i desc) from n",
    "endless": "with recursive n(i) as (select 1 union all select i+1 from n) select max(i) from n",
    "endless texts": f"with recursive n(x) as (select {BIG} union all select x || '' from n) "
    "select count(*) from n",
    "queue": f"with recursive n(i, x) as (select 1, {BIG} union select i+1, {BIG} from n) "
    "select count(*) from n",
    "materialised": f"with r as materialized ({COUNT.format(10**6)} select i, {BIG} x from n) "
    "select a.i from r a, r b order by a.x, b.x",
    "like": f"select {BIG} like '{'%x' * 90}y'",
    "long like": f"select {BIG} like '%{'x' * 400}y'",
    "glob": f"select {BIG} glob '{'*x' * 90}y'",
    "in list": f"select 1 in ({','.join(map(str, range(9000)))})",
    "depth": f"select {'(' * 900}1{')' * 900}",
    "negations": f"select {'-' * 1 + '(-' * 900}1{')' * 900}",
    "compound": " union all ".join(["select 1"] * 400),
    "json bomb": f"select count(*) from json_each('[' || replace({BIG}, 'x', '1,') || '1]')",
    "json depth": "select json(printf('%.*c', 900000, '['))",
    "json_tree": f"{COUNT.format(10**4)} select count(*) from n, json_tree('[[[[1]]]]') a, files",
    "names": 'select *, 1 as "' + "n" * 20000 + f'" from ({COUNT.format(1000)} select i from n)',
    "star": "select * from " + ", ".join(f'(select 1 as "{"n" * 300}{i}")' for i in range(64)),
    "char": f"select {'||'.join(['hex(' + BIG + ')'] * 20)}",
    "quote": f"select quote({BIG}) || quote({BIG})",
    "escapes": f"{COUNT.format(20)} select replace(printf('%.*c',400000,'x'),'x',char(1)) from n",
    "highlight": f"select highlight(dataset_text, 0, {BIG}, {BIG}) from dataset_text "
    "where dataset_text match 'a* or b* or c* or d*'",
    "fts": "select count(*) from path_text where path_text match '"
    + " OR ".join(f"{chr(97 + i % 26)}*" for i in range(2000))
    + "'",
    "scans": f"{COUNT.format(10**6)} select instr({BIG}, 'xy'), instr({BIG}, 'xz') from n",
}
BOTH_FORMS = ("rows", "columns", "names", "escapes")
"""Attacks whose rows or cells are large, and which each form of reply copies in its own way."""

TABLES = [
    "/index/files.json?_size=max&_facet=path&_facet=content&_facet=since&_facet_size=max",
    "/index/files.csv?_size=max&_stream=on",
    "/index/files.csv?_size=max",
    "/index/files?_size=max&_labels=on&_sort=content&" + "&".join("_facet=path" for _ in range(60)),
    "/index/files?_sort=nothing",
    "/index/files.json?_where=" + quote("path in (select group_concat(path) from files)"),
    "/index/files.json?_where=" + quote(f"{BIG} || path = 'x'") + "&_size=max",
    "/index/versions.json?_facet_array=license&_facet_array=attributes&_facet_array=title",
    "/index/versions.json?license__arraycontains=x&title__glob=" + quote("*a" * 300),
    "/index/versions.json?" + "&".join("title__contains=a" for _ in range(900)),
    "/index/files.blob?_blob_column=path",
    "/index/contents.blob?_blob_column=sha256",
    "/index/files.json?_next=" + "x" * 5000,
    "/index/path_text.json?_search=" + quote("a* OR " * 900 + "b*"),
    "/index/dataset_text.json?_search=" + quote('"' * 999),
]


def test_no_statement_takes_more_memory_than_its_process_may_have(
    sql_catalogue: RunningCatalogue,
) -> None:
    forms = ("json", "csv")
    asked = [(name, forms[number % 2]) for number, name in enumerate(ATTACKS)]
    asked += [(name, form) for name in BOTH_FORMS for form in forms if (name, form) not in asked]

    def attack(one: tuple[str, str]) -> requests.Response:
        return sql_catalogue.get(sql_url(ATTACKS[one[0]], one[1], _shape="objects"))

    with MemoryMonitor(sql_catalogue.pid) as watch, ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(attack, asked))
        assert sql_catalogue.get("/mirrors").status_code == 200
    for (name, _), reply in zip(asked, replies, strict=True):
        # a third one at a time waits, or is to be repeated
        assert reply.status_code in (200, 400, 503), (name, reply.status_code, reply.text[:300])
        assert reply.status_code != 503 or int(reply.headers["retry-after"]) > 0
        assert len(reply.content) <= 17 << 20, name
    assert sql_catalogue.get(sql_url("select 1")).status_code == 200
    assert 0 < watch.memory < _MEMORY
    assert len(of_family(sql_catalogue.pid)) <= 1 + MAX_CONCURRENT


def test_a_table_with_the_dearest_options_is_answered_within_limits(
    sql_catalogue: RunningCatalogue,
) -> None:
    with MemoryMonitor(sql_catalogue.pid) as watch:
        for path in TABLES:
            reply = sql_catalogue.get(path)
            assert reply.status_code in (200, 400, 404), (path, reply.text[:500])
            assert len(reply.content) <= 17 << 20, path
    assert 0 < watch.memory < _MEMORY


@pytest.mark.parametrize(
    "sql",
    [
        "select * from pragma_database_list",
        "select file from pragma_database_list()",
        "select * from pragma_compile_options",
        "select * from pragma_function_list",
        "select * from pragma_module_list",
        "select count(*) from pragma_database_list",
        "select (select file from pragma_database_list limit 1)",
        "select load_extension('/lib/x')",
        "select sqlite_version()",
        "select sqlite_source_id()",
        "select sqlite_compileoption_get(0)",
        "select randomblob(10)",
        "select fts3_tokenizer('simple')",
        "select * from dbstat",
        "select * from sqlite_dbpage",
        "select * from sqlite_stmt",
        "select readfile('/etc/passwd')",
        "select edit('x')",
    ],
)
def test_statements_revealing_the_machine_are_refused(
    sql_catalogue: RunningCatalogue, demo_harness: MirrorHarness, sql: str
) -> None:
    reply = sql_catalogue.get(sql_url(sql))
    assert reply.status_code == 400, (sql, reply.text[:300])
    assert str(demo_harness.folder) not in reply.text
    table = sql_catalogue.get(sql_url(sql, "csv"))
    assert table.status_code == 400 or table.text.strip() == ""
    page = sql_catalogue.get(f"/index?sql={quote(sql)}")
    assert page.status_code == 400
    assert str(demo_harness.folder) not in page.text


@pytest.mark.parametrize(
    "sql",
    [
        "attach database '/tmp/x' as y",
        "with x as (select 1) delete from files",
        "explain delete from files",
        "explain query plan select 1",
        "vacuum into '/tmp/x'",
        "pragma hard_heap_limit = 0",
        "select 1; select 2",
    ],
)
def test_nothing_but_reading_is_a_statement(sql_catalogue: RunningCatalogue, sql: str) -> None:
    if not sql.startswith("explain query"):
        assert sql_catalogue.get(sql_url(sql)).status_code == 400


def test_ordinary_questions_are_answered(sql_catalogue: RunningCatalogue) -> None:
    for sql in (
        "select count(*) as n from versions",
        "with v as (select * from versions) select count(*) from v",
        "select d.local_id, group_concat(v.label, ', ') from datasets d join versions v "
        "on v.dataset = d.id group by 1 having count(*) > 0 order by 1 desc",
        "select json_extract(attributes, '$.species') from versions",
        "select key, value from versions, json_each(attributes)",
        "select name from pragma_table_info('files')",
        "select row_number() over (order by label), upper(label), round(files/3.0) from versions",
        "select rowid, bm25(dataset_text) from dataset_text where dataset_text match 'demo'",
        "select path from files where path like '%nwb' and path glob '*.nwb' limit 3",
        "select name, sql from sqlite_master",
        "select date(recorded_at), strftime('%Y', recorded_at) from versions",
    ):
        reply = sql_catalogue.get(sql_url(sql, _shape="array"))
        assert reply.status_code == 200, (sql, reply.text)
        assert reply.json() or "match" in sql or "json" in sql, sql
    for path in ("/index", "/index/files", "/index/datasets?_facet=mirror", "/index.json"):
        assert sql_catalogue.get(path).status_code == 200


def test_visitor_sql_is_off_by_default(site: RunningCatalogue) -> None:
    for path in (sql_url("select 1"), sql_url("select 1", "csv"), "/index?sql=select+1"):
        assert site.get(path).status_code == 403
    assert site.get("/index/files.json?_where=1").status_code in (400, 403)
    assert site.get("/index/newest_versions.json").status_code == 200
    assert site.get("/index/files.json?path__contains=a").status_code == 200
    version = site.api("/datasets/demo:000001@latest")["version"]
    named = f"dataset=demo:000001&label={quote(version)}&_shape=array"
    assert json.loads(site.get(f"/index/version_files.json?{named}").text)


def test_the_processes_that_answer_have_no_secrets_and_end_with_the_catalogue(
    demo_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANDI_API_KEY", "very-secret-0815")
    with run_catalogue(demo_harness.store) as found:
        assert found.get("/index").status_code == 200
        children = of_family(found.pid)[1:]
        assert children
        for one in children:
            assert b"very-secret" not in Path(f"/proc/{one}/environ").read_bytes()
            assert "Max address space" in Path(f"/proc/{one}/limits").read_text()
    until = time.monotonic() + 600
    while any(Path(f"/proc/{one}").exists() for one in children):
        assert time.monotonic() < until
        time.sleep(0.1)
