// This machine and its processes, as intents name them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ostraca {

std::string host_name();

// Names the running kernel until it restarts; empty where the system does not say.
std::string boot_id();

// When a process started, in clock ticks since the kernel did: with the boot id, a process's number names one process
// for good, whatever becomes of the clock. Nothing: there is no such process, or it ended and is not waited for.
std::optional<std::uint64_t> start_ticks(std::int64_t pid);
std::optional<std::uint64_t> own_start_ticks();  // of this process, read once

}  // namespace ostraca
