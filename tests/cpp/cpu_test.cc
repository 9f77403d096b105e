#include "base/cpu.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

#include "base/cgroup.h"

namespace ostraca {
namespace {

TEST(CpuFeatures, RicherSetsIncludePoorerOnes) {
  const CpuFeatures& f = cpu_features();
  EXPECT_TRUE(!f.avx2 || f.sse42);
  EXPECT_TRUE(!f.avx512 || f.avx2);
  EXPECT_TRUE(!f.vpclmulqdq || f.avx512);
  EXPECT_FALSE(f.neon && f.sse42);
}

TEST(CpuFeatures, EnvironmentLowersThem) {
  const char* variable = std::getenv("OSTRACA_ISA");
  const std::string_view isa = variable ? variable : "";
  const CpuFeatures& f = cpu_features();
  const bool sse42 = isa == "sse42", avx2 = isa == "avx2", portable = isa == "portable";
  EXPECT_FALSE(portable && (f.sse42 || f.arm_crc || f.neon));
  EXPECT_FALSE((portable || sse42) && f.avx2);
  EXPECT_FALSE((portable || sse42 || avx2) && (f.avx512 || f.vpclmulqdq));
}

TEST(Machine, OffersSomething) {
  EXPECT_GE(usable_cores(), 1u);
  EXPECT_LE(usable_cores(), std::max(1u, std::thread::hardware_concurrency()));
  EXPECT_GT(available_memory_bytes(), 1u << 20);
  EXPECT_LT(available_memory_bytes(), std::uint64_t{1} << 60);
}

// Another machine's /proc and /sys, under a temporary directory.
class CgroupTest : public testing::Test {
 protected:
  CgroupTest() : root_(testing::TempDir() + "ostraca_cgroup_" + std::to_string(getpid())) {}
  ~CgroupTest() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path full(root_ + path);
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }

  CgroupLimits limits() const { return read_cgroup_limits(root_); }

  const std::string root_;
};

TEST_F(CgroupTest, NothingReadableLimitsNothing) {
  EXPECT_TRUE(std::isinf(limits().cores));
  EXPECT_EQ(limits().memory_left_bytes, UINT64_MAX);
}

TEST_F(CgroupTest, V2TakesTheTightestOfAllParents) {
  write("/proc/self/cgroup", "0::/jobs/train\n");
  write("/proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
  write("/sys/fs/cgroup/jobs/train/cpu.max", "max 100000\n");
  write("/sys/fs/cgroup/jobs/train/memory.max", "1000000\n");
  write("/sys/fs/cgroup/jobs/train/memory.current", "300000\n");
  write("/sys/fs/cgroup/jobs/train/memory.stat", "anon 1\ninactive_file 100000\n");
  write("/sys/fs/cgroup/jobs/cpu.max", "150000 100000\n");
  write("/sys/fs/cgroup/jobs/memory.max", "max\n");
  write("/sys/fs/cgroup/jobs/memory.current", "999999\n");
  EXPECT_DOUBLE_EQ(limits().cores, 1.5);
  EXPECT_EQ(limits().memory_left_bytes, 800000u);
  write("/sys/fs/cgroup/jobs/memory.high", "1200000\n");
  EXPECT_EQ(limits().memory_left_bytes, 200001u);
}

TEST_F(CgroupTest, V2InAContainerSeesItsOwnGroupAsTheMount) {
  write("/proc/self/cgroup", "0::/docker/abc/inner\n");
  write("/proc/self/mountinfo", "30 24 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
  write("/sys/fs/cgroup/cpu.max", "300000 100000\n");
  write("/sys/fs/cgroup/inner/cpu.max", "200000 100000\n");
  EXPECT_DOUBLE_EQ(limits().cores, 2);
}

TEST_F(CgroupTest, AGroupOutsideTheMountIsReadAtTheMount) {
  write("/proc/self/cgroup", "0::/../sibling\n");
  write("/proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
  write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_DOUBLE_EQ(limits().cores, 0.5);
}

TEST_F(CgroupTest, V1UsesItsControllersMounts) {
  write("/proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/x\n");
  write("/proc/self/mountinfo",
        "31 25 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
        "32 25 0:28 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n");
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "6000\n");
  EXPECT_DOUBLE_EQ(limits().cores, 2.5);
  EXPECT_EQ(limits().memory_left_bytes, 0u);
  write("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 2000\n");
  EXPECT_EQ(limits().memory_left_bytes, 1000u);
}

TEST_F(CgroupTest, V1WithoutAQuota) {
  write("/proc/self/cgroup", "5:cpu:/\n");
  write("/proc/self/mountinfo", "31 25 0:27 / /cpu ro - cgroup cgroup rw,cpu\n");
  write("/cpu/cpu.cfs_quota_us", "-1\n");
  write("/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_TRUE(std::isinf(limits().cores));
}

}  // namespace
}  // namespace ostraca
