#include "graft/core/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include "../support/errors.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// Stands in front of the C library's: a disk that fails when it is told to write what it was given.
static bool fsync_fails = false;
extern "C" int fsync(int file) {
  if (!fsync_fails) return static_cast<int>(::syscall(SYS_fsync, file));
  errno = EIO;
  return -1;
}

namespace graft::safetensors {
namespace {

namespace fs = std::filesystem;

// A folder of its own for every test.
class Safetensors : public testing::Test {
 protected:
  Safetensors() {
    std::string name = (fs::temp_directory_path() / "graft-safetensors-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~Safetensors() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }
  // A file with this header and so many bytes of data: 0, 1, 2, …
  static std::string file(const std::string& header, int data_bytes) {
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> (8 * i)));
    bytes += header;
    for (int i = 0; i < data_bytes; ++i) bytes.push_back(static_cast<char>(i));
    return bytes;
  }
  static std::string read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // What FileError says, without the path in front.
  template <class F>
  std::string message_of(F&& f) const {
    try {
      f();
    } catch (const FileError& error) {
      const std::string text = error.what(), prefix = folder_.string() + "/";
      return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
    }
    return "nothing was thrown";
  }
  std::string refusal(const std::string& bytes) const {
    const fs::path path = write("f", bytes);
    return message_of([&] { File::open(path); });
  }

  fs::path folder_;
};

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

TEST_F(Safetensors, ReadsTensorsInAnyOrderWithMetadataAndPadding) {
  const auto path = write("f", file("{" + tensor("b", "U8", "[2,2]", "[4,8]") + R"(,"__metadata__":{"format":"pt"},)" +
                                        tensor("a", "I16", "[2]", "[0,4]") + "," + tensor("none", "F32", "[0,3]", "[4,4]") + "," +
                                        tensor("scalar", "I32", "[]", "[8,12]") + "}   ",
                                    12));
  const File file = File::open(path);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(to_string(file.tensor("a")), "i16[2] {256, 770}");
  EXPECT_EQ(to_string(file.tensor("b")), "u8[2, 2] {4, 5, 6, 7}");
  EXPECT_EQ(file.tensor("none").shape(), (Shape{0, 3}));
  EXPECT_EQ(file.tensor("scalar").item(), 0x0b0a0908);
  EXPECT_EQ(message_of([&] { file.tensor("c"); }), "f: has no tensor 'c'");
}

TEST_F(Safetensors, TensorsAliasTheMappingAndKeepItAlive) {
  save(folder_ / "f", {{"a", Tensor::full({4}, 2.5)}});
  const auto live = memory::live_bytes();
  const Tensor a = File::open(folder_ / "f").tensor("a");
  EXPECT_EQ(memory::live_bytes(), live);
  EXPECT_EQ(a.to_vector<float>(), std::vector<float>(4, 2.5f));
  EXPECT_TRUE(a.storage()->read_only());
  test::expect_error<ValueError>([&] { a.fill_(1); }, "fill_: the tensor views memory that is only readable");
}

#if defined(__SANITIZE_ADDRESS__)
TEST_F(Safetensors, TheSanitizerSeesReadsBeyondAFile) {
  save(folder_ / "f", {{"a", Tensor::ones({4})}});
  const float* past;
  {
    const Tensor a = File::open(folder_ / "f").tensor("a");
    past = a.data<float>() + 4;
    EXPECT_FALSE(__asan_address_is_poisoned(past - 1));
    EXPECT_TRUE(__asan_address_is_poisoned(past));
  }
  EXPECT_FALSE(__asan_address_is_poisoned(past));  // another mapping may lie there next
}
#endif

TEST_F(Safetensors, MisalignedTensorsAreCopied) {
  const auto path = write("f", file("{" + tensor("a", "U8", "[1]", "[0,1]") + "," + tensor("b", "I32", "[1]", "[1,5]") + "}", 5));
  const Tensor b = File::open(path).tensor("b");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.data<std::int32_t>()) % 4, 0u);
  EXPECT_EQ(b.item(), 0x04030201);
}

TEST_F(Safetensors, RefusesFilesThatAreNoFiles) {
  EXPECT_EQ(message_of([&] { File::open(folder_ / "no"); }), "no: cannot be opened: No such file or directory");
  fs::create_directory(folder_ / "d");
  EXPECT_EQ(message_of([&] { File::open(folder_ / "d"); }), "d: is not a regular file");
  EXPECT_EQ(refusal(""), "f: has 0 bytes, too few for the length of a header");
  EXPECT_EQ(refusal("1234567"), "f: has 7 bytes, too few for the length of a header");
}

TEST_F(Safetensors, RefusesLyingHeaders) {
  std::string bytes = file("{}", 0);
  bytes[0] = 3;
  EXPECT_EQ(refusal(bytes), "f: the header claims 3 bytes, but only 2 follow");
  bytes[7] = 1;
  EXPECT_EQ(refusal(bytes), "f: the header claims 72057594037927939 bytes; at most 100000000 are allowed");
  EXPECT_EQ(refusal(file("", 0)), "f: the header does not begin with '{'");
  EXPECT_EQ(refusal(file(" {}", 0)), "f: the header does not begin with '{'");
  EXPECT_EQ(refusal(file("[]", 0)), "f: the header does not begin with '{'");
  EXPECT_TRUE(refusal(file("{", 0)).starts_with("f: the header is not valid UTF-8 JSON: ")) << refusal(file("{", 0));
  EXPECT_TRUE(refusal(file("{}x", 0)).starts_with("f: the header is not valid UTF-8 JSON: "));
  EXPECT_TRUE(refusal(file("{\"\xff\":1}", 0)).starts_with("f: the header is not valid UTF-8 JSON: "));
  EXPECT_EQ(refusal(file(R"({"a":1})", 0)), "f: tensor 'a' is a number, not an object");
  EXPECT_EQ(refusal(file(R"({"a":[]})", 0)), "f: tensor 'a' is an array, not an object");
}

TEST_F(Safetensors, RefusesDuplicateKeys) {
  const std::string a = tensor("a", "U8", "[1]", "[0,1]");
  EXPECT_EQ(refusal(file("{" + a + "," + a + "}", 1)), "f: tensor 'a' appears twice");
  EXPECT_EQ(refusal(file(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1)),
            "f: tensor 'a' has the field 'dtype' twice");
  EXPECT_EQ(refusal(file(R"({"__metadata__":{"k":"1","k":"2"}})", 0)), "f: the metadata has the key 'k' twice");
  EXPECT_EQ(refusal(file(R"({"__metadata__":{},"__metadata__":{}})", 0)), "f: the header has __metadata__ twice");
}

TEST_F(Safetensors, RefusesBadMetadata) {
  EXPECT_EQ(refusal(file(R"({"__metadata__":{"k":1}})", 0)), "f: the metadata holds a number; it must be an object of strings");
  EXPECT_EQ(refusal(file(R"({"__metadata__":"x"})", 0)), "f: the metadata holds a string; it must be an object of strings");
  EXPECT_EQ(refusal(file(R"({"__metadata__":{"k":{}}})", 0)), "f: the metadata holds an object; it must be an object of strings");
}

TEST_F(Safetensors, RefusesBadEntries) {
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return refusal(file("{" + tensor("a", dtype, shape, offsets) + "}", 8));
  };
  EXPECT_EQ(one("F8_E4M3", "[8]", "[0,8]"),
            "f: tensor 'a' has elements of type 'F8_E4M3'; known are BOOL, U8, I8, I16, I32, I64, F16, BF16, F32, F64");
  EXPECT_EQ(one("U8", "[-8]", "[0,8]"), "f: tensor 'a' has a negative number, -8, in its shape or offsets");
  EXPECT_EQ(one("U8", "[8.0]", "[0,8]"), "f: tensor 'a' has 8.0, not an integer, in its shape or offsets");
  EXPECT_EQ(one("U8", "[1,1,1,1,1,1,8]", "[0,8]"), "f: tensor 'a' has more than 6 dimensions");
  EXPECT_EQ(one("U8", "[18446744073709551615]", "[0,8]"), "f: tensor 'a' has an extent of 18446744073709551615");
  EXPECT_EQ(one("F32", "[4611686018427387904,4]", "[0,8]"),
            "f: tensor 'a' of shape [4611686018427387904, 4] has more bytes than can be counted");
  EXPECT_EQ(one("F32", "[0,4611686018427387904,4]", "[0,0]"),
            "f: tensor 'a' of shape [0, 4611686018427387904, 4] has more bytes than can be counted");
  EXPECT_EQ(one("U8", "[[8]]", "[0,8]"), "f: tensor 'a' has an array in its shape");
  EXPECT_EQ(one("U8", "8", "[0,8]"), "f: tensor 'a' has a number in its shape");
  EXPECT_EQ(one("U8", "null", "[0,8]"), "f: tensor 'a' has null in its shape");
  EXPECT_EQ(one("U8", "[8]", "[0,9]"), "f: tensor 'a' reaches to byte 9 of the data, which has 8");
  EXPECT_EQ(one("U8", "[8]", "[8,0]"), "f: tensor 'a' begins at byte 8 and ends before it, at 0");
  EXPECT_EQ(one("U8", "[8]", "[8]"), "f: tensor 'a' has 1 data_offsets, not two");
  EXPECT_EQ(one("U8", "[8]", "[0,8,8]"), "f: tensor 'a' has more than two data_offsets");
  EXPECT_EQ(one("I16", "[8]", "[0,8]"), "f: tensor 'a' spans 8 bytes, but i16[8] needs 16");
  EXPECT_EQ(refusal(file(R"({"a":{"dtype":"U8","shape":[0]}})", 0)), "f: tensor 'a' has no data_offsets");
  EXPECT_EQ(refusal(file(R"({"a":{"shape":[0],"data_offsets":[0,0]}})", 0)), "f: tensor 'a' has no dtype");
  EXPECT_EQ(refusal(file(R"({"a":{"dtype":"U8","data_offsets":[0,0]}})", 0)), "f: tensor 'a' has no shape");
  EXPECT_EQ(refusal(file(R"({"a":{"order":"C"}})", 0)),
            "f: tensor 'a' has the field 'order'; known are dtype, shape and data_offsets");
}

TEST_F(Safetensors, RefusesHolesOverlapsAndTrailingBytes) {
  const auto two = [&](const std::string& a, const std::string& b) {
    return refusal(file("{" + tensor("a", "U8", "[4]", a) + "," + tensor("b", "U8", "[4]", b) + "}", 10));
  };
  EXPECT_EQ(two("[0,4]", "[3,7]"), "f: tensor 'b' begins at byte 3, inside another that ends at 4");
  EXPECT_EQ(two("[6,10]", "[0,4]"), "f: bytes 4 to 6 before tensor 'a' belong to no tensor");
  EXPECT_EQ(two("[0,4]", "[4,8]"), "f: 2 bytes after the last tensor belong to no tensor");
  EXPECT_EQ(refusal(file("{}", 1)), "f: 1 bytes after the last tensor belong to no tensor");
}

TEST_F(Safetensors, RefusesBoolsThatAreNone) {
  const auto path = write("f", file("{" + tensor("a", "BOOL", "[3]", "[0,3]") + "}", 3));
  EXPECT_EQ(message_of([&] { File::open(path).tensor("a"); }), "f: tensor 'a' has a byte that is neither 0 nor 1, but is BOOL");
}

TEST_F(Safetensors, EveryTruncationOfAFileIsRefused) {
  save(folder_ / "whole", {{"a", Tensor::arange(5)}, {"b", Tensor::ones({3}, DType::bf16)}}, {{"format", "pt"}});
  const std::string whole = read(folder_ / "whole");
  for (std::size_t size = 0; size < whole.size(); ++size) EXPECT_NE(refusal(whole.substr(0, size)), "nothing was thrown") << size;
  EXPECT_EQ(refusal(whole), "nothing was thrown");
}

TEST_F(Safetensors, WritesTheBytesThatTheFormatsOwnWriterWrites) {
  int files = 0;
  for (const auto& found : fs::recursive_directory_iterator(fs::path(GRAFT_SOURCE_DIR) / "tests" / "golden" / "runs")) {
    if (found.path().filename() != "adapter_model.safetensors") continue;
    const File golden = File::open(found.path());
    std::vector<NamedTensor> tensors;
    for (const auto& [name, entry] : golden.entries()) tensors.push_back({name, golden.tensor(name)});
    save(folder_ / "f", tensors, golden.metadata());
    EXPECT_EQ(read(folder_ / "f"), read(found.path())) << found.path();
    ++files;
  }
  EXPECT_GT(files, 0);
}

TEST_F(Safetensors, WritesWideElementsFirstAndPadsTheHeader) {
  save(folder_ / "f", {{"d", Tensor::ones({1})}, {"e", Tensor::from<std::uint8_t>({7}, {1})}, {"cc", Tensor::full({1, 1}, 2)}});
  std::string expected = file(R"({"cc":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},)"
                              R"("d":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
                              R"("e":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}}      )",
                              0);
  EXPECT_EQ(expected.size() % 8, 0u);
  expected += std::string("\0\0\0\x40\0\0\x80\x3f\7", 9);
  EXPECT_EQ(read(folder_ / "f"), expected);
}

TEST_F(Safetensors, RefusesToWriteNonsense) {
  const Tensor x = Tensor::ones({1});
  const auto refuse = [&](const std::vector<NamedTensor>& tensors, const std::map<std::string, std::string>& metadata,
                          const std::string& words) {
    test::expect_error<ValueError>([&] { save(folder_ / "f", tensors, metadata); },
                                   fmt::format("saving {}: {}", (folder_ / "f").string(), words));
  };
  refuse({{"a", x}, {"a", x}}, {}, "tensor 'a' is given twice");
  refuse({{"__metadata__", x}}, {}, "'__metadata__' cannot be the name of a tensor");
  refuse({{"a", Tensor()}}, {}, "tensor 'a' is undefined");
  refuse({{"\xff", x}}, {}, "a name or a metadata string is not valid UTF-8");
  refuse({{"a", x}}, {{"key", "\xff"}}, "a name or a metadata string is not valid UTF-8");
  refuse({{"a", x}}, {{"key", std::string(100'000'000, 'x')}}, "a header of 100000080 bytes; the format allows 100000000");
  EXPECT_TRUE(fs::is_empty(folder_));
  EXPECT_EQ(message_of([&] { save(folder_ / "no" / "f", {{"a", x}}); }), "no/f: cannot be created: No such file or directory");
}

TEST_F(Safetensors, AFullDiskLeavesTheOldFileAlone) {
  save(folder_ / "f", {{"a", Tensor::ones({3})}});
  const std::string before = read(folder_ / "f");
  // A limit on the size of files stands in for the disk: both make write() fail half way.
  rlimit old = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit small = old;
  small.rlim_cur = 4096;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string tensors = message_of([&] { save(folder_ / "f", {{"a", Tensor::ones({3000})}}); });
  const std::string text = message_of([&] { write_file_atomically(folder_ / "f", std::string(5000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(tensors, "f: cannot be written: File too large");
  EXPECT_EQ(text, tensors);
  EXPECT_EQ(read(folder_ / "f"), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(Safetensors, AFileThatIsNotCompleteVanishes) {
  const Tensor x = Tensor::ones({3});
  save(folder_ / "f", {{"a", x}});
  const std::string before = read(folder_ / "f");
  fsync_fails = true;
  EXPECT_EQ(message_of([&] { save(folder_ / "f", {{"b", x}}); }), "f: cannot be flushed: Input/output error");
  fsync_fails = false;
  EXPECT_EQ(read(folder_ / "f"), before);
  fs::create_directory(folder_ / "d");
  EXPECT_EQ(message_of([&] { save(folder_ / "d", {{"b", x}}); }), "d: cannot be replaced: Is a directory");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2);
}

TEST_F(Safetensors, ReplacingAFileLeavesItsReadersTheOldOne) {
  save(folder_ / "f", {{"a", Tensor::ones({3})}});
  const Tensor old = File::open(folder_ / "f").tensor("a");
  save(folder_ / "f", {{"a", Tensor::zeros({3})}});
  EXPECT_EQ(old.to_vector<float>(), std::vector<float>(3, 1));
  EXPECT_EQ(File::open(folder_ / "f").tensor("a").to_vector<float>(), std::vector<float>(3, 0));
}

TEST_F(Safetensors, TextFilesAreWrittenWhole) {
  write_file_atomically(folder_ / "t", "one");
  write_file_atomically(folder_ / "t", "two");
  EXPECT_EQ(read(folder_ / "t"), "two");
}

// ---- checkpoints ----

TEST_F(Safetensors, ACheckpointIsAFileOrAFolderOrAnIndex) {
  EXPECT_EQ(message_of([&] { Checkpoint::open(folder_ / "no"); }), "no: does not exist");
  EXPECT_EQ(message_of([&] { Checkpoint::open(folder_ / "."); }),
            ".: holds no model.safetensors, no index and no other *.safetensors");
  save(folder_ / "b.safetensors", {{"b", Tensor::ones({2})}});
  EXPECT_EQ(Checkpoint::open(folder_).names(), std::vector<std::string>{"b"});
  save(folder_ / "a.safetensors", {{"a", Tensor::ones({2})}});
  EXPECT_EQ(message_of([&] { Checkpoint::open(folder_ / "."); }),
            ".: holds a.safetensors and b.safetensors, and no model.safetensors that would decide");
  save(folder_ / "model.safetensors", {{"m", Tensor::ones({2})}});
  EXPECT_EQ(Checkpoint::open(folder_).names(), std::vector<std::string>{"m"});
  write("model.safetensors.index.json", R"({"weight_map":{"a":"a.safetensors","b":"b.safetensors"}})");
  const Checkpoint both = Checkpoint::open(folder_);
  EXPECT_EQ(both.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(both.bytes(), 16);
  EXPECT_EQ(both.entry("b").shape, (Shape{2}));
  EXPECT_EQ(both.tensor("a").to_vector<float>(), std::vector<float>(2, 1));
  EXPECT_EQ(message_of([&] { both.tensor("c"); }), "the checkpoint has no tensor 'c'");
  EXPECT_EQ(Checkpoint::open(folder_ / "model.safetensors.index.json").names(), both.names());
}

TEST_F(Safetensors, ShardsMayLieInFoldersBelowTheIndexButNotElsewhere) {
  fs::create_directory(folder_ / "layer0");
  save(folder_ / "layer0" / "a.safetensors", {{"a", Tensor::ones({2})}});
  write("x.safetensors.index.json", R"({"weight_map":{"a":"layer0/a.safetensors"}})");
  EXPECT_EQ(Checkpoint::open(folder_).names(), std::vector<std::string>{"a"});
  for (const char* path : {"layer0/../layer0/a.safetensors", "/a.safetensors", ""}) {
    write("x.safetensors.index.json", fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", path));
    EXPECT_EQ(message_of([&] { Checkpoint::open(folder_); }),
              fmt::format("x.safetensors.index.json: tensor 'a' is said to be in '{}', outside the folder", path));
  }
}

TEST_F(Safetensors, RefusesIndexesThatDisagreeWithTheirShards) {
  save(folder_ / "a.safetensors", {{"a", Tensor::ones({2})}, {"c", Tensor::ones({2})}});
  save(folder_ / "b.safetensors", {{"b", Tensor::ones({2})}, {"c", Tensor::ones({2})}});
  const auto refusal = [&](const std::string& index) {
    const fs::path path = write("i.json", index);
    return message_of([&] { Checkpoint::open(path); });
  };
  EXPECT_TRUE(refusal("{").starts_with("i.json: is not valid JSON: "));
  EXPECT_EQ(refusal("[]"), "i.json: has no object weight_map");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":1}})"), "i.json: the file of tensor 'a' is not a string");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"a.safetensors","a":"b.safetensors"}})"), "i.json: has the key 'a' twice");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"z.safetensors"}})"), "z.safetensors: cannot be opened: No such file or directory");
  EXPECT_EQ(refusal(R"({"weight_map":{"b":"a.safetensors"}})"),
            "i.json: tensor 'b' is not in a.safetensors, where the index puts it");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"a.safetensors"}})"), "i.json: tensor 'c' of a.safetensors is not listed");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"a.safetensors","b":"b.safetensors","c":"a.safetensors"}})"),
            "i.json: tensor 'c' is in b.safetensors and in a.safetensors");
}

}  // namespace
}  // namespace graft::safetensors
