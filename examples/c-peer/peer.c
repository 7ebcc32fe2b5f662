/* The other end of c-peer.mjs: takes numbers from one queue and puts their
   squares into another, with the priority they came with, until an empty
   message comes. It knows nothing of Node.js.

   cc -o peer peer.c -lrt */
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s <from> <to>\n", argv[0]);
    return 2;
  }
  mqd_t from = mq_open(argv[1], O_RDONLY);
  mqd_t to = mq_open(argv[2], O_WRONLY);
  struct mq_attr attributes;
  if (from == (mqd_t)-1 || to == (mqd_t)-1 ||
      mq_getattr(from, &attributes) != 0) {
    perror("mq_open");
    return 1;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  char *message = malloc(attributes.mq_msgsize + 1);
  if (message == NULL) return 1;
  for (;;) {
    unsigned priority;
    ssize_t length =
        mq_receive(from, message, attributes.mq_msgsize, &priority);
    if (length < 0) {
      perror("mq_receive");
      return 1;
    }
    if (length == 0) break;
    message[length] = '\0';
    long number = atol(message);
    char reply[64];
    int size = snprintf(reply, sizeof reply, "%ld", number * number);
    printf("C: %ld came with priority %u\n", number, priority);
    if (mq_send(to, reply, size, priority) != 0) {
      perror("mq_send");
      return 1;
    }
  }
  free(message);
  mq_close(from);
  mq_close(to);
  return 0;
}
