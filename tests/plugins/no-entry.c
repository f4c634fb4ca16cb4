/* A shared object without the entry. */
__attribute__((visibility("default"))) int no_entry_here(void);
int no_entry_here(void)
{
    return 0;
}
