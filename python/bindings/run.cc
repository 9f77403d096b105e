// Runs and the checkpoints in them, for upkeep. Each function: convert, release the GIL, call, convert.

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <unordered_set>

#include "base/limits.h"
#include "container/file_format.h"
#include "container/manifest.h"
#include "convert.h"
#include "engine/catalog.h"
#include "engine/lifetime.h"
#include "engine/on_storage.h"
#include "engine/stores.h"

namespace ostraca::python {
namespace {

// A lease for a with statement.
class PyLease {
 public:
  explicit PyLease(std::unique_ptr<Lease> lease) : lease_(std::move(lease)) {}
  void let_go() {
    const Status status = without_gil([&] {
      Status ended = lease_->let_go();
      lease_.reset();
      return ended;
    });
    raise_if_error(status);
  }

 private:
  std::unique_ptr<Lease> lease_;
};

template <class Call>
auto take(const Call& call) {
  return take_or_raise(without_gil(call));
}

template <class Call>
void do_or_raise(const Call& call) {
  raise_if_error(without_gil(call));
}

class PyStorage {
 public:
  explicit PyStorage(std::unique_ptr<Storage> storage) : storage_(std::move(storage)) {}

  py::tuple read(const SystemPath& name) const {
    const Document document = take([&] { return storage_->read_document(name.bytes, kManifestBytesMax); });
    return py::make_tuple(py::bytes(document.text), py::bytes(document.version));
  }
  py::tuple facts(const std::string& id) const {
    const CheckpointId about = checkpoint_id(id);
    const Notes notes = take([&] { return read_notes_on(*storage_, about); });
    return py::make_tuple(notes.facts, notes.unknown);
  }
  void retire(const SystemPath& name, const py::bytes& version, const SystemPath& retired) const {
    const std::string expected = version;
    do_or_raise([&] { return storage_->retire(name.bytes, expected, retired.bytes); });
  }
  void restore(const SystemPath& retired, const SystemPath& name) const {
    do_or_raise([&] { return storage_->restore(retired.bytes, name.bytes); });
  }
  void remove(const SystemPath& name) const {
    do_or_raise([&] { return storage_->remove(name.bytes); });
  }
  void sync() const {
    do_or_raise([&] { return storage_->sync_directory(); });
  }
  std::unique_ptr<PyLease> lease_exclusive(const SystemPath& name) const {
    return std::make_unique<PyLease>(take([&] { return storage_->lease_exclusive(name.bytes); }));
  }
  std::unique_ptr<PyLease> lease_removing(const SystemPath& name) const {
    return std::make_unique<PyLease>(take([&] { return storage_->lease_removing(name.bytes); }));
  }

 private:
  const std::unique_ptr<Storage> storage_;
};

py::object contents_of(const ScannedFile& file) {
  return file.contents ? py::object(py::bytes(*file.contents)) : py::object(py::none());
}

py::object file_tuple(const ScannedFile& file) {
  const char* kind = file.kind == ScannedFile::Kind::kPlain  ? "plain"
                     : file.kind == ScannedFile::Kind::kLink ? "link"
                                                             : "other";
  return py::make_tuple(SystemPath{file.name}, kind, file.bytes, file.changed_ns, py::bytes(file.version),
                        contents_of(file), exception_or_none(file.status));
}

py::tuple child_tuple(const Run::Child& child) {
  py::list files, links;
  for (const ScannedFile& file : child.files) files.append(file_tuple(file));
  for (const std::string& link : child.links) links.append(SystemPath{link});
  const bool is_there = child.last.status.code() != Code::kNotFound;
  return py::make_tuple(SystemPath{child.name}, child.is_link, SystemPath{child.leads_to}, child.leads_to_whole,
                        child.is_directory, py::bytes(child.identity), child.changed_ns, files, links,
                        is_there ? file_tuple(child.last) : py::object(py::none()), exception_or_none(child.status));
}

bool same(const ScannedFile& a, const ScannedFile& b) {
  const auto key = [](const ScannedFile& f) { return std::tie(f.name, f.kind, f.bytes, f.changed_ns, f.version); };
  return key(a) == key(b) && a.status.code() == b.status.code() && !a.contents;
}

// Whether a child is as it was in an earlier scan.
bool same(const Run::Child& a, const Run::Child& b) {
  const auto key = [](const Run::Child& c) {
    return std::tie(c.name, c.is_link, c.leads_to, c.leads_to_whole, c.is_directory, c.identity, c.changed_ns, c.links);
  };
  return a.status.ok() && b.status.ok() && key(a) == key(b) && same(a.last, b.last) &&
         std::ranges::equal(a.files, b.files, [](const auto& x, const auto& y) { return same(x, y); });
}

// A run, and what of it Python has seen.
class PyRun {
 public:
  explicit PyRun(const SystemPath& path) : run_(open_run(path.bytes)) {}

  SystemPath path() const { return {run_->path()}; }
  py::list scan() {
    std::vector<Run::Child> children = take([&] { return run_->scan(options()); });
    py::list out;
    for (const Run::Child& child : children) {
      const auto before = std::ranges::lower_bound(before_, child.name, {}, &Run::Child::name);
      const bool is_same = before != before_.end() && same(child, *before);
      out.append(is_same ? py::object(py::cast(SystemPath{child.name})) : py::object(child_tuple(child)));
    }
    learn(&children);
    before_ = std::move(children);
    return out;
  }
  std::int64_t changed_ns() const {
    return take([&] { return run_->changed_ns(); });
  }
  py::tuple itself() {
    std::vector<Run::Child> children = {without_gil([&] { return run_->itself(options()); })};
    py::tuple out = child_tuple(children.front());
    learn(&children);
    return out;
  }
  std::int64_t now(bool may_write) const {
    return take([&] { return run_->now(may_write); });
  }
  std::unique_ptr<PyStorage> child(const SystemPath& name, const py::bytes& identity) const {
    const std::string expected = identity;
    return std::make_unique<PyStorage>(take([&] { return run_->child(name.bytes, expected); }));
  }
  void remove_directory(const SystemPath& name) const {
    do_or_raise([&] { return run_->remove_directory(name.bytes); });
  }
  std::int64_t created_last() const {
    return take([&] { return ostraca::created_last(*run_); });
  }
  py::list check(const std::vector<std::pair<SystemPath, py::bytes>>& wanted) const {
    std::vector<std::pair<std::string, std::string>> children;
    for (const auto& [name, identity] : wanted) children.emplace_back(name.bytes, std::string(identity));
    py::list out;
    for (const Status& status : without_gil([&] { return check_checkpoints(*run_, children); }))
      out.append(exception_or_none(status));
    return out;
  }

 private:
  using Known = std::unordered_set<std::string>;  // names and versions

  ScanOptions options() const {
    ScanOptions options = scan_of_documents();
    options.is_known = [known = known_](const std::string& name, const std::string& version) {
      return known->contains(name + '/' + version);
    };
    return options;
  }
  // Forgets the contents of what Python has by now.
  void learn(std::vector<Run::Child>* children) {
    std::vector<std::string> learned;
    const auto add = [&](ScannedFile& file) {
      if (file.contents) learned.push_back(file.name + '/' + file.version);
      file.contents.reset();
    };
    for (Run::Child& child : *children) {
      std::ranges::for_each(child.files, add);
      add(child.last);
    }
    if (learned.empty()) return;
    auto known = std::make_shared<Known>(*known_);
    known->insert(learned.begin(), learned.end());
    known_ = std::move(known);
  }

  const std::unique_ptr<Run> run_;
  std::shared_ptr<const Known> known_ = std::make_shared<Known>();  // scans without the GIL hold it; replaced with it
  std::vector<Run::Child> before_;                                  // of the last scan
};

py::tuple facts_among(std::vector<std::pair<std::uint64_t, std::optional<py::bytes>>> documents,
                      const std::string& id) {
  std::ranges::sort(documents, std::greater{}, [](const auto& one) { return one.first; });
  NotesAbout notes(checkpoint_id(id));
  for (const auto& [number, text] : documents)
    if (notes.take(number, text ? decode_note(std::string_view(*text)) : Result<Note>(format_error("unreadable"))))
      break;
  return py::make_tuple(notes.notes().facts, notes.notes().unknown);
}

py::object check(const SystemPath& path) {
  return exception_or_none(without_gil([&] { return check_checkpoint(*open_storage(path.bytes)); }));
}

const char* life(const std::optional<py::bytes>& intent, double age_seconds, double grace_seconds) {
  const Result<Intent> decoded =
      intent ? decode_intent(std::string_view(*intent)) : Result<Intent>(not_found("intent"));
  const auto ns = [](double seconds) {
    constexpr double kLongest = 9e9;  // seconds; more would overflow
    return static_cast<std::int64_t>(std::min(seconds, kLongest) * 1e9);
  };
  switch (life_of(decoded.ok() ? &*decoded : nullptr, ns(age_seconds), ns(grace_seconds))) {
    case Life::kRuns:
      return "runs";
    case Life::kRecent:
      return "recent";
    case Life::kGone:
      return "gone";
    case Life::kOver:
      return "over";
  }
  return "";
}

}  // namespace

void bind_run(py::module_& m) {
  using py::arg;
  py::class_<PyLease>(m, "Lease")
      .def("__enter__", [](PyLease&) {})
      .def("__exit__", [](PyLease& lease, const py::args&) { lease.let_go(); });
  py::class_<PyStorage>(m, "Storage")
      .def("read", &PyStorage::read, arg("name"))
      .def("facts", &PyStorage::facts, arg("id"))
      .def("retire", &PyStorage::retire, arg("name"), arg("version"), arg("retired"))
      .def("restore", &PyStorage::restore, arg("retired"), arg("name"))
      .def("remove", &PyStorage::remove, arg("name"))
      .def("sync", &PyStorage::sync)
      .def("lease_exclusive", &PyStorage::lease_exclusive, arg("name"))
      .def("lease_removing", &PyStorage::lease_removing, arg("name"));
  py::class_<PyRun>(m, "Run")
      .def(py::init<const SystemPath&>(), arg("path"))
      .def_property_readonly("path", &PyRun::path)
      .def("scan", &PyRun::scan)
      .def("changed_ns", &PyRun::changed_ns)
      .def("itself", &PyRun::itself)
      .def("now", &PyRun::now, arg("may_write"))
      .def("child", &PyRun::child, arg("name"), arg("identity"))
      .def("remove_directory", &PyRun::remove_directory, arg("name"))
      .def("created_last", &PyRun::created_last)
      .def("check", &PyRun::check, arg("children"));
  m.attr("MANIFEST") = kManifestName;
  m.attr("GRACE_SECONDS") = static_cast<double>(kGraceNs) / 1e9;
  m.def("real_path", [](const SystemPath& path) { return SystemPath{real_path(path.bytes)}; }, arg("path"));
  m.def("check", &check, arg("path"));
  m.def("facts_among", &facts_among, arg("documents"), arg("id"));
  m.def("life", &life, arg("intent"), arg("age_seconds"), arg("grace_seconds"));
  m.def(
      "wrap_stores", [](std::uintptr_t wrapper) { wrap_stores(reinterpret_cast<StoreWrapper*>(wrapper)); },
      arg("wrapper"));
}

}  // namespace ostraca::python
