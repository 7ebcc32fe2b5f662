// Sends a message and receives it, in one thread.
//   pair FAMILY WAY SIZE CORE CORE QUEUE
#include "queue.h"

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  struct command command;
  pin(atoi(argv[4]));
  while (next_command(&command)) {
    const size_t size = (size_t)atol(argv[3]);
    struct queue queue =
        open_queue(argv[1], argv[6], way_of(argv[2]), size, EPOLLIN);
    struct maker maker = {.size = size};
    struct checker checker = new_checker(size, command, NULL);
    const int64_t before = cpu_time();
    for (long i = 0; i <= command.warm + command.count; ++i) {
      send_message(&queue, &maker);
      receive_message(&queue, &checker);
    }
    const struct result result = evaluate(&checker);
    print_result(&result, cpu_time() - before, &command);
    close_queue(&queue);
    free(checker.expected);
  }
  return 0;
}
