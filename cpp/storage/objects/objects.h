// Runs and checkpoints as prefixes of an object store. An object is stored whole, so nothing has to be synced, and a
// condition of the store decides who publishes; there are no leases.
#pragma once

#include <memory>
#include <string>

#include "ostraca/object_client.h"
#include "storage/storage.h"

namespace ostraca {

// The checkpoints under `prefix`, which is not empty and has no '/' at its end.
std::unique_ptr<Run> make_object_run(std::shared_ptr<ObjectClient> client, std::string prefix);
// The checkpoint `name` under the prefix `run`.
std::unique_ptr<Storage> make_object_storage(std::shared_ptr<ObjectClient> client, std::string run, std::string name);

}  // namespace ostraca
