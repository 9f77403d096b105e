// A library that tests load into a process of Python: all its stores are wrapped in faults from then on.
//
// The module takes the address of a StoreWrapper (ostraca._core.wrap_stores); this is built by the same compiler.

#include "engine/stores.h"
#include "fault_storage.h"

namespace ostraca::testing {
namespace {

class Wrapper final : public StoreWrapper {
 public:
  std::unique_ptr<Storage> wrap(std::unique_ptr<Storage> storage) override {
    return std::make_unique<FaultStorage>(std::move(storage), plan);
  }
  std::unique_ptr<Run> wrap(std::unique_ptr<Run> run) override {
    return std::make_unique<FaultRun>(std::move(run), plan);
  }

  const std::shared_ptr<FaultPlan> plan = std::make_shared<FaultPlan>();
};

Wrapper& wrapper() {
  static auto* const instance = new Wrapper;
  return *instance;
}

}  // namespace
}  // namespace ostraca::testing

extern "C" {

#define PUBLIC __attribute__((visibility("default")))

PUBLIC void* fault_wrapper() { return static_cast<ostraca::StoreWrapper*>(&ostraca::testing::wrapper()); }

// At operation number `at`, from 1, it fails with `error`; with none the process is killed, `after` it or before.
PUBLIC void fault_arm(std::uint64_t at, int error, int after) {
  ostraca::testing::wrapper().plan->set({.at_call = at, .error = error, .after = after != 0, .kill = error == 0});
}

PUBLIC std::uint64_t fault_calls() { return ostraca::testing::wrapper().plan->calls(); }

// The name of operation `number`, from 1; empty when there is none.
PUBLIC const char* fault_operation(std::uint64_t number) {
  static std::string name;
  const auto log = ostraca::testing::wrapper().plan->log();
  name = number <= log.size() ? log[number - 1].operation + " " + log[number - 1].name : "";
  return name.c_str();
}
}
