// A commit of many processes' files on a store that takes a while to open each.
#include <benchmark/benchmark.h>

#include <chrono>
#include <thread>

#include "engine/on_storage.h"
#include "storage/memory/memory.h"

namespace ostraca {
namespace {

constexpr auto kLatency = std::chrono::milliseconds(30);

class SlowStorage final : public MemoryStorage {
 public:
  explicit SlowStorage(const std::shared_ptr<MemoryTree>& tree) : MemoryStorage(tree, "checkpoint") {}
  StoreTraits traits() const override { return posix_->traits(); }
  Result<std::unique_ptr<ReadableFile>> open(const std::string& name) override {
    std::this_thread::sleep_for(kLatency);
    return MemoryStorage::open(name);
  }

 private:
  const std::unique_ptr<Storage> posix_ = make_posix_storage("/");
};

void commit_of_many_processes(benchmark::State& state) {
  const auto processes = static_cast<std::uint32_t>(state.range(0));
  for (auto _ : state) {
    state.PauseTiming();
    const auto tree = std::make_shared<MemoryTree>("run");
    const CheckpointId id = CheckpointId::random();
    std::vector<FileReport> reports;
    const std::int32_t value = 1;
    for (std::uint32_t p = 0; p < processes; ++p) {
      auto writer = create_writer(std::make_unique<MemoryStorage>(tree, "checkpoint"),
                                  {.process_index = p, .process_count = processes, .attempt = id, .threads = 1});
      ArraySource source{.path = key_path_from_name("a" + std::to_string(p)), .dtype = DType::kInt32};
      source.data = reinterpret_cast<const std::byte*>(&value);
      if (!writer.ok() || !(*writer)->add(std::move(source)).ok()) return state.SkipWithError("no writer");
      reports.push_back((*writer)->finish().take());
    }
    state.ResumeTiming();
    SlowStorage storage(tree);
    if (!commit_on(storage, reports, {}).ok()) return state.SkipWithError("no commit");
  }
}
BENCHMARK(commit_of_many_processes)->Arg(1'000)->Arg(10'000)->Unit(benchmark::kSecond)->Iterations(1)->UseRealTime();

}  // namespace
}  // namespace ostraca
